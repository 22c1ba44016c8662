"""The command line: parse, one call of the library, print.

Each command is a file of its name. Enter at `app.main`. Heavy packages are imported inside the
commands, so that `--help` needs none of them.
"""

from . import (  # noqa: F401
    batch,
    bench,
    build_trt,
    container,
    convert,
    demo,
    doctor,
    explain,
    export,
    lint,
    models,
    plan,
    populate,
    predict,
    promote,
    quickstart,
    rollback,
    serve,
    tune,
    validate,
    versions,
)
from .app import app, main

__all__ = ["app", "main"]
