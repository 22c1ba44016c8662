"""The exception tree; each branch has the exit code that the command line ends with.

DfvtError
├── BadInput            2  wrong usage, or a file that cannot be used
│   ├── CheckpointError     a checkpoint is damaged, or does not fit the model
│   └── ArtifactError       an exported file is missing, stale or was changed
├── StageFailed         3  a step ran with a bad result, or something that it needs is missing
│   └── MissingDependency   an extra of this package is not installed
├── GateFailed          4  too much accuracy was lost, or the loss could not be decided
└── ServerFailed        5  the server did not start, died or cannot be reached

A message says what was wrong, the value, the limit and what to do.
"""

from importlib import import_module
from typing import Any


class DfvtError(Exception):
    """Base of every error that the user can act on; any other exception is a bug. The message is
    one line; `details` are more lines, such as the rows of a table."""

    exit_code = 1

    def __init__(self, message: str, *details: str) -> None:
        super().__init__(message, *details)

    def __str__(self) -> str:
        return "\n".join(self.args)


class BadInput(DfvtError):
    exit_code = 2


class CheckpointError(BadInput):
    """A checkpoint is damaged, or does not fit the model."""


class ArtifactError(BadInput):
    """An exported file is missing, stale or was changed."""


class StageFailed(DfvtError):
    exit_code = 3


class MissingDependency(StageFailed):
    """An extra of this package, which installs a package that is needed, is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'dfvt-deploy[{extra}]'")


class GateFailed(DfvtError):
    exit_code = 4


class ServerFailed(DfvtError):
    exit_code = 5


#: Modules that may be missing, and the extra of this package that brings each.
EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnxscript", "onnxsim", "safetensors"), "export"),
    **dict.fromkeys(("openvino", "nncf"), "openvino"),
    **{"onnxruntime": "cpu", "modelopt": "convert", "fsspec": "batch", "pyarrow": "batch"},
    **{"ray": "ray", "tritonclient": "client", "google": "client", "jinja2": "validate"},
    **{"pycocotools": "validate", "tensorrt": "tensorrt", "tensorrt_rtx_bindings": "rtx"},
    **{"sklearn": "examples"},
}


def optional(module: str) -> Any:
    """A module of `EXTRAS`, imported; MissingDependency where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingDependency(package, EXTRAS[package]) from None
