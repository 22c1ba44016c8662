"""The GPUs of this machine as the NVIDIA driver lists them; no CUDA toolkit or torch is needed."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import Unavailable

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


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows to this process; Unavailable without a driver or a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise Unavailable(
            f"no NVIDIA GPU can be used: there is no driver (libcuda.so.1); {_REMEDY}"
        ) from None
    count = ctypes.c_int()
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    found = [_gpu(driver, index) for index in range(count.value)] if code == 0 else []
    if not found:
        reason = f"the driver reports CUDA error {code}" if code else "the driver lists none"
        raise Unavailable(f"no NVIDIA GPU can be used: {reason}; {_REMEDY}")
    return tuple(found)


def gpu(index: int = 0) -> Gpu:
    """The GPU with this number. Raises Unavailable where there is no such GPU."""
    found = gpus()
    if not 0 <= index < len(found):
        raise Unavailable(f"there is no GPU {index}; CUDA finds {len(found)}, counted from 0")
    return found[index]


def find_gpu() -> Gpu | None:
    """The first GPU, or None where no GPU can be used."""
    try:
        return gpu()
    except Unavailable:
        return None


def _gpu(driver: Any, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    calls: tuple[Callable[[], int], ...] = (
        lambda: driver.cuDeviceGet(ctypes.byref(device), index),
        lambda: driver.cuDeviceGetName(name, len(name), device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
    )
    for call in calls:
        if code := call():
            raise Unavailable(f"GPU {index} cannot be used: CUDA error {code}; {_REMEDY}")
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", index)
