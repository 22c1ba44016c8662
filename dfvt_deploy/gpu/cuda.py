"""The few CUDA calls that running a plan takes, through NVIDIA's cuda-bindings."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import GpuError, NotInstalled


class Stream(AbstractContextManager["Stream"]):
    """A CUDA stream on one GPU, destroyed at the end of the `with` block."""

    def __init__(self, device: int) -> None:
        self._cuda = _runtime()
        self.device = device
        self.use_device()
        self._stream = _checked(
            self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking)
        )

    def __exit__(self, *_raised: object) -> None:
        self._cuda.cudaStreamDestroy(self._stream)

    @property
    def handle(self) -> int:
        return int(self._stream)

    def use_device(self) -> None:
        """Make the stream's GPU the current one of this thread."""
        _checked(self._cuda.cudaSetDevice(self.device))

    def synchronize(self) -> None:
        _checked(self._cuda.cudaStreamSynchronize(self._stream))

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Copy a contiguous array, which must live until the stream is synchronized, to the GPU."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        source = array.ctypes.data
        _checked(self._cuda.cudaMemcpyAsync(address, source, array.nbytes, kind, self._stream))

    def copy_out(self, address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array that is filled from the GPU once the stream is synchronized."""
        array = np.empty(shape, dtype)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        target = array.ctypes.data
        _checked(self._cuda.cudaMemcpyAsync(target, address, array.nbytes, kind, self._stream))
        return array


class DeviceBuffer:
    """Memory on the current GPU that grows to the largest size that was asked for."""

    def __init__(self) -> None:
        self.address = 0
        self.capacity = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes; earlier content may be gone."""
        if size > self.capacity:
            self.close()
            self.address = int(_checked(_runtime().cudaMalloc(size)))
            self.capacity = size
        return self.address

    def close(self) -> None:
        if self.address:
            _runtime().cudaFree(self.address)
        self.address = self.capacity = 0


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise NotInstalled(
            f"cuda-bindings cannot be imported ({error}); run: pip install 'dfvt-deploy[tensorrt]'"
        ) from None
    return runtime


def _checked(result: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, whose first item is its status; GpuError without success."""
    code, *values = result
    if code != _runtime().cudaError_t.cudaSuccess:
        _, text = _runtime().cudaGetErrorString(code)
        raise GpuError(f"CUDA: {text.decode()} ({code.name})")
    return values[0] if values else None
