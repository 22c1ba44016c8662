"""The command line: parse, one call of the library, print.

A file here is a group of commands. Heavy packages are imported inside the commands, so that
`--help` needs none of them.
"""

from . import (
    container,
    converting,
    engines,
    exporting,
    machine,
    serving,
    validating,
    walkthrough,
)
from .app import app, main

__all__ = [
    "app",
    "container",
    "converting",
    "engines",
    "exporting",
    "machine",
    "main",
    "serving",
    "validating",
    "walkthrough",
]
