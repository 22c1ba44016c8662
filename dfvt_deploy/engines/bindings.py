"""TensorRT's Python packages: one API for both flavors and for TensorRT 10.12 to 11."""

from __future__ import annotations

import importlib
from typing import Any

from packaging.version import Version

from ..errors import MissingDependency, StageFailed
from .record import Flavor

#: Modules that hold a flavor's API, in order of preference. `tensorrt_bindings` alone is enough
#: where TensorRT's libraries are the system's, as in NVIDIA's containers.
_MODULES = {
    Flavor.TENSORRT: ("tensorrt", "tensorrt_bindings"),
    Flavor.RTX: ("tensorrt_rtx_bindings", "tensorrt_rtx"),
}

#: Strongly typed networks with all that is used here.
LEAST_TENSORRT = "10.12"


def bindings(flavor: Flavor) -> Any:
    """The module with TensorRT's Python API.

    Raises:
        MissingDependency: it is not installed.
        StageFailed: its version is too old, or its libraries cannot be loaded.
    """
    module = _imported(flavor)
    if module is None:
        raise MissingDependency(flavor.product, flavor.value)
    found = module.__version__
    if flavor is Flavor.TENSORRT and Version(found) < Version(LEAST_TENSORRT):
        raise StageFailed(
            f"TensorRT {found} is too old, the least is {LEAST_TENSORRT}; "
            "run: pip install 'dfvt-deploy[tensorrt]'"
        )
    return module


def installed_version(flavor: Flavor) -> str | None:
    """Version of the installed package, None without one. Imports it."""
    module = _imported(flavor)
    return None if module is None else str(module.__version__)


def _imported(flavor: Flavor) -> Any:
    for name in _MODULES[flavor]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as error:
            raise StageFailed(
                f"{name} is installed but cannot be imported: {error}; "
                f"run: pip install --force-reinstall 'dfvt-deploy[{flavor}]'"
            ) from error
        if hasattr(module, "Builder"):  # type stubs alone import as an empty namespace
            return module
    return None
