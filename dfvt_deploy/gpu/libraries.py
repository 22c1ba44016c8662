"""The Python packages of TensorRT and TensorRT-RTX, which have the same API."""

import importlib
from dataclasses import dataclass
from typing import Any

from .errors import GpuError, NotInstalled, Unavailable


@dataclass(frozen=True)
class Library:
    """One of the two libraries that build and run plans.

    magic: the first four bytes of its plans.
    modules: Python modules that hold its API, in order of preference. The bindings alone are enough
        where the libraries are the system's, as in NVIDIA's containers.
    extra: the extra of dfvt-deploy that installs it.
    """

    product: str
    magic: bytes
    modules: tuple[str, ...]
    extra: str

    @property
    def install(self) -> str:
        return f"run: pip install 'dfvt-deploy[{self.extra}]'"


LIBRARIES = {
    "tensorrt": Library("TensorRT", b"ftrt", ("tensorrt", "tensorrt_bindings"), "tensorrt"),
    "rtx": Library("TensorRT-RTX", b"vtrt", ("tensorrt_rtx", "tensorrt_rtx_bindings"), "rtx"),
}


def library_of(plan: bytes) -> Library:
    """The library that runs a plan, from the plan's first four bytes; GpuError for no plan."""
    for library in LIBRARIES.values():
        if library.magic == plan[:4]:
            return library
    raise GpuError(f"no TensorRT plan: it starts with {plan[:4].hex(' ') or 'nothing'}")


def load_library(library: Library) -> Any:
    """Import the Python module of a library. Raises NotInstalled where none of its modules is
    installed, Unavailable where one is, but cannot be imported."""
    failure = ""
    for name in library.modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError, RuntimeError) as error:  # OSError: no such shared library
            failure = failure or f"{name} is installed but cannot be imported: {error}"
            continue
        if hasattr(module, "Runtime"):  # type stubs alone import as an empty module
            return module
    if failure:
        remedy = library.install.replace("install", "install --force-reinstall")
        raise Unavailable(f"{failure}; {remedy}")
    raise NotInstalled(f"{library.product} is not installed; {library.install}")
