"""The GPU of this machine, asked of the driver itself: no CUDA toolkit and no torch needed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

#: CUdevice_attribute: compute capability, major and minor.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU; the compute capability is written like "9.0"."""

    name: str
    compute_capability: str


def find_gpu() -> Gpu | None:
    """The first GPU that CUDA shows to this process, None where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    calls: tuple[Callable[[], int], ...] = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetName(name, len(name), device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
    )
    if any(call() != 0 for call in calls):
        return None
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")
