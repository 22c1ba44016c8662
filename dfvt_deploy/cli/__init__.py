"""The command line: parse, one call of the library, print.

Each command is a file of its name. Enter at `app.main`. Heavy packages are imported inside the
commands, so that `--help` needs none of them.
"""

from importlib import import_module

from .app import COMMANDS, app, main

for _name in (*COMMANDS, "container"):
    import_module(f".{_name.replace('-', '_')}", __name__)

__all__ = ["app", "main"]
