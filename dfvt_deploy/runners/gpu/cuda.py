"""The few CUDA calls that running a plan takes, through NVIDIA's own bindings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

INSTALL = "run: pip install 'dfvt-deploy[tensorrt]'"


class GpuError(Exception):
    """A call of CUDA or TensorRT failed; the message is theirs."""


class Unavailable(GpuError):
    """A GPU, its driver or a library is missing; the message says which and what to do."""


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine. `compute_capability` is written as "9.0"."""

    index: int
    name: str
    compute_capability: str
    memory_bytes: int


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA sees.

    Raises:
        Unavailable: there is none, no driver, or no bindings.
    """
    cuda = _bindings()
    code, count = cuda.cudaGetDeviceCount()
    if code != cuda.cudaError_t.cudaSuccess or not count:
        raise Unavailable(
            f"no NVIDIA GPU can be used: {_text(code) if code else 'CUDA finds none'}; there is no "
            "driver, it is too old for the installed cuda-bindings (see nvidia-smi), or the "
            "container was started without --gpus=all"
        )
    return tuple(_gpu(index) for index in range(count))


def gpu(index: int = 0) -> Gpu:
    """One GPU of this machine.

    Raises:
        Unavailable: there is no such GPU.
    """
    found = gpus()
    if not 0 <= index < len(found):
        raise Unavailable(f"there is no GPU {index}; CUDA finds {len(found)}, counted from 0")
    return found[index]


class Stream:
    """A CUDA stream of its own on one GPU; `with` ends it."""

    def __init__(self, device: int) -> None:
        self._cuda = _bindings()
        self.device = device
        self.use_device()
        self._stream = _checked(
            self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking)
        )

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._cuda.cudaStreamDestroy(self._stream)

    @property
    def handle(self) -> int:
        return int(self._stream)

    def use_device(self) -> None:
        """Make the stream's GPU that of this thread."""
        _checked(self._cuda.cudaSetDevice(self.device))

    def synchronize(self) -> None:
        _checked(self._cuda.cudaStreamSynchronize(self._stream))

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Copy a contiguous array to the GPU; it must live until the stream is synchronized."""
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

    @contextmanager
    def captured(self) -> Iterator[list[Graph]]:
        """Record what the block enqueues instead of running it; the list then holds its graph.

        Raises:
            GpuError: something in the block cannot be part of a graph.
        """
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _checked(self._cuda.cudaStreamBeginCapture(self._stream, mode))
        made: list[Graph] = []
        try:
            yield made
        finally:
            code, graph = self._cuda.cudaStreamEndCapture(self._stream)
            self._cuda.cudaGetLastError()  # a failed capture must not fail the next call
        _checked((code,))
        try:
            made.append(Graph(_checked(self._cuda.cudaGraphInstantiate(graph, 0))))
        finally:
            self._cuda.cudaGraphDestroy(graph)

    def launch(self, graph: Graph) -> None:
        _checked(self._cuda.cudaGraphLaunch(graph.executable, self._stream))


class Graph:
    """Work recorded once, to be launched as often as wanted."""

    def __init__(self, executable: Any) -> None:
        self.executable = executable

    def close(self) -> None:
        _bindings().cudaGraphExecDestroy(self.executable)


class DeviceBuffer:
    """Memory on the current GPU that grows to the most it was asked for."""

    def __init__(self) -> None:
        self.address = 0
        self.capacity = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes; what was there before may be gone."""
        if size > self.capacity:
            self.close()
            self.address = int(_checked(_bindings().cudaMalloc(size)))
            self.capacity = size
        return self.address

    def close(self) -> None:
        if self.address:
            _bindings().cudaFree(self.address)
        self.address = self.capacity = 0


def _gpu(index: int) -> Gpu:
    properties = _checked(_bindings().cudaGetDeviceProperties(index))
    return Gpu(
        index=index,
        name=properties.name.decode(errors="replace").rstrip("\0"),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory_bytes=properties.totalGlobalMem,
    )


def _bindings() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise Unavailable(f"cuda-bindings cannot be imported ({error}); {INSTALL}") from None
    return runtime


def _checked(result: tuple[Any, ...]) -> Any:
    """The value of a call, whose first item is its status."""
    code, *values = result
    if code != _bindings().cudaError_t.cudaSuccess:
        raise GpuError(f"CUDA: {_text(code)}")
    return values[0] if values else None


def _text(code: Any) -> str:
    _, text = _bindings().cudaGetErrorString(code)
    return f"{text.decode()} ({code.name})"
