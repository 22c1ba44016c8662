"""The GPUs of this machine as the NVIDIA driver lists them, without a CUDA toolkit or torch; the
Python packages of TensorRT and TensorRT-RTX, which have the same API; and what can go wrong. The
errors are not `DfvtError`s: the embedded server has none."""

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any


class GpuError(Exception):
    """CUDA or TensorRT refused a call; the message quotes the reason that the library gave."""


class Unavailable(GpuError):
    """No GPU, no driver or no usable library was found; the message names it and the remedy."""


class NotInstalled(Unavailable):
    """A Python package is not installed; the message has the command that installs it."""


class InvalidInput(Exception):
    """An input array does not fit the plan; the message has the tensor's name, shape and range."""


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
    """A library's module; NotInstalled without one, Unavailable where it cannot be imported."""
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


#: Values of CUdevice_attribute: the compute capability, major and minor.
_MAJOR, _MINOR = 75, 76

_REMEDY = (
    "install the driver (nvidia-smi shows whether it works), or start the container with --gpus=all"
)


@dataclass(frozen=True)
class Gpu:
    """One GPU. `compute_capability` is written as "9.0"; CUDA counts `index` from 0."""

    name: str
    compute_capability: str
    index: int = 0


def gpu(index: int = 0) -> Gpu:
    """The GPU with this number among those that CUDA shows to this process. Raises Unavailable
    where there is no driver, or no such GPU."""
    unusable = "no NVIDIA GPU can be used"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise Unavailable(f"{unusable}: there is no driver (libcuda.so.1); {_REMEDY}") from None
    count, device, major, minor = (ctypes.c_int() for _ in range(4))
    if code := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        raise Unavailable(f"{unusable}: the driver reports CUDA error {code}; {_REMEDY}")
    if not count.value:
        raise Unavailable(f"{unusable}: the driver lists none; {_REMEDY}")
    if not 0 <= index < count.value:
        raise Unavailable(f"there is no GPU {index}; CUDA finds {count.value}, counted from 0")
    name = ctypes.create_string_buffer(256)
    code = (
        driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    if code:
        raise Unavailable(f"GPU {index} cannot be used: CUDA error {code}; {_REMEDY}")
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", index)


def find_gpu() -> Gpu | None:
    """The first GPU, or None where no GPU can be used."""
    try:
        return gpu()
    except Unavailable:
        return None
