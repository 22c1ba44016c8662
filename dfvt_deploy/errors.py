"""The exception tree, each branch with the exit code the command line gives it.

DfvtError
├── BadInput            2  wrong usage, a file that cannot be used
│   ├── CheckpointError     does not fit the model, is damaged, or is of another variant
│   └── ArtifactError       an exported file is missing, stale or was changed
├── StageFailed         3  a step ran and its result is not good, or something it needs is missing
│   └── MissingDependency   an extra is not installed
├── GateFailed          4  too much accuracy was lost, or it could not be decided
└── ServerFailed        5  the server did not start, died or cannot be reached

A message says what was wrong, the value, the limit and what to do.
"""

from __future__ import annotations


class DfvtError(Exception):
    """Base of every error that is the user's to act on; anything else is a bug of ours."""

    exit_code = 1


class BadInput(DfvtError):
    exit_code = 2


class CheckpointError(BadInput):
    pass


class ArtifactError(BadInput):
    pass


class StageFailed(DfvtError):
    exit_code = 3


class MissingDependency(StageFailed):
    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'dfvt-deploy[{extra}]'")


class GateFailed(DfvtError):
    exit_code = 4


class ServerFailed(DfvtError):
    exit_code = 5
