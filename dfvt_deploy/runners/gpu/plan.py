"""A TensorRT or TensorRT-RTX plan, loaded and run."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .cuda import INSTALL, DeviceBuffer, GpuError, Graph, Stream, Unavailable, gpu

if TYPE_CHECKING:  # TensorRT-RTX has the same classes
    import tensorrt

Shape = tuple[int, ...]

#: By the first four bytes of a plan: what runs it, and the modules that bring that, best first.
#: `tensorrt_bindings` alone is enough where the libraries are the system's.
RUNTIMES = {
    b"ftrt": ("TensorRT", ("tensorrt", "tensorrt_bindings")),
    b"vtrt": ("TensorRT-RTX", ("tensorrt_rtx", "tensorrt_rtx_bindings")),
}


class Refused(Exception):
    """What was sent does not fit the plan; the message names the tensor, its shape and the
    range."""


@dataclass(frozen=True)
class Bounds:
    """The shapes that one input may have, from `low` to `high` in each dimension."""

    low: Shape
    high: Shape

    def __str__(self) -> str:
        return f"{_text(self.low)} .. {_text(self.high)}"

    def misfit(self, name: str, shape: Shape) -> str:
        """What is wrong with the shape of an input; empty where nothing is."""
        if len(shape) != len(self.low):
            return f"{name} {_text(shape)} has {len(shape)} dimensions, not {len(self.low)}"
        for axis, (low, size, high) in enumerate(zip(self.low, shape, self.high, strict=True)):
            if not low <= size <= high:
                return (
                    f"{name} {_text(shape)}: dimension {axis} is {size}, the plan takes "
                    f"{low}..{high} there ({self})"
                )
        return ""


def fitting_profile(profiles: list[dict[str, Bounds]], shapes: Mapping[str, Shape]) -> int:
    """The first profile that takes these shapes.

    Raises:
        Refused: none does.
    """
    reasons = []
    for number, profile in enumerate(profiles):
        wrong = [bounds.misfit(name, shapes[name]) for name, bounds in profile.items()]
        found = [reason for reason in wrong if reason]
        if not found:
            return number
        reasons.append(found[0])
    raise Refused(
        "; ".join(dict.fromkeys(reasons))
        + "; a plan for other shapes is made with: dfvt-deploy build-trt"
    )


def tensorrt_module(magic: bytes) -> Any:
    """The module that runs plans with these first four bytes.

    Raises:
        Unavailable: it is not installed or cannot be loaded.
        GpuError: no plan starts so.
    """
    if magic not in RUNTIMES:
        raise GpuError(f"no TensorRT plan: it starts with {magic.hex(' ') or 'nothing'}")
    product, names = RUNTIMES[magic]
    reason = ""
    for name in names:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: a library it loads is missing
            reason = reason or f" ({error})"
            continue
        if hasattr(module, "Runtime"):  # type stubs are a module without anything in it
            return module
    extra = INSTALL if magic == b"ftrt" else INSTALL.replace("[tensorrt]", "[rtx]")
    raise Unavailable(f"{product} cannot be imported{reason}; {extra}")


class LoadedPlan:
    """A plan on one GPU; `with` frees it.

    Args:
        path: the plan.
        device: number of the GPU.
        cuda_graph: record the second and later runs of the same shapes as one CUDA graph. Plans
            that cannot be recorded (with loops, say) run without; `graph_refused` says why.

    Attributes:
        inputs, outputs: numpy dtype by name.
        profiles: of each, the bounds of every input.

    Raises:
        Unavailable: no GPU, or no TensorRT of the plan's kind.
        GpuError: TensorRT does not take the plan; its own reason.
    """

    def __init__(self, path: Path, device: int = 0, cuda_graph: bool = False) -> None:
        plan = path.read_bytes()
        self._trt = tensorrt_module(plan[:4])
        self.gpu = gpu(device)
        self.runtime_version: str = self._trt.__version__
        self._log = _log(self._trt)
        self._resources = contextlib.ExitStack()
        self._buffers: dict[str, DeviceBuffer] = {}
        self._shapes: dict[str, Shape] = {}
        self._allocated: dict[str, Any] = {}
        self._profile = 0
        self._graph: Graph | None = None
        self.graph_refused = "" if cuda_graph else "not asked for"
        with contextlib.ExitStack() as undo:
            self._stream = undo.enter_context(Stream(device))
            runtime: tensorrt.Runtime = self._trt.Runtime(self._log)
            engine: tensorrt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise GpuError(self._reason(f"{path.name} cannot be loaded"))
            self._runtime, self._engine = runtime, engine
            self._context: tensorrt.IExecutionContext = self._new_context()
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            self.inputs = {n: self._dtype(n) for n in names if self._is_input(n)}
            self.outputs = {n: self._dtype(n) for n in names if not self._is_input(n)}
            self.profiles = [
                {name: self._bounds(name, number) for name in self.inputs}
                for number in range(engine.num_optimization_profiles)
            ]
            for name in names:
                self._buffers[name] = DeviceBuffer()
                undo.callback(self._buffers[name].close)
            self._resources = undo.pop_all()

    def __enter__(self) -> LoadedPlan:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._stream.use_device()
        self._drop_graph()
        # TensorRT frees an object with its last reference; the context must go first.
        del self._allocated, self._context, self._engine, self._runtime
        self._resources.close()

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the plan on arrays of host memory.

        Raises:
            Refused: an input is missing, unknown, or of another dtype or shape than the plan takes.
            GpuError: the run failed.
        """
        arrays = self._taken(feed)
        self._stream.use_device()
        self._prepare({name: array.shape for name, array in arrays.items()})
        for name, array in arrays.items():
            self._stream.copy_in(self._buffers[name].address, array)
        self._run()
        made = {
            name: self._stream.copy_out(*self._output(name), dtype)
            for name, dtype in self.outputs.items()
        }
        self._stream.synchronize()
        return made

    def _taken(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if feed.keys() != self.inputs.keys():
            raise Refused(f"inputs {sorted(feed)} are given, the plan takes {sorted(self.inputs)}")
        for name, dtype in self.inputs.items():
            if feed[name].dtype != dtype:
                raise Refused(f"{name} is {feed[name].dtype}, the plan takes {dtype}")
        return {name: np.ascontiguousarray(feed[name]) for name in self.inputs}

    def _prepare(self, shapes: dict[str, Shape]) -> None:
        """Set shapes and addresses; nothing to do where the shapes are those of the last run."""
        if shapes == self._shapes:
            return
        number = fitting_profile(self.profiles, shapes)
        self._drop_graph()
        self._shapes = {}
        context = self._context
        if number != self._profile:
            if not context.set_optimization_profile_async(number, self._stream.handle):
                raise GpuError(self._reason(f"profile {number} cannot be used"))
            self._stream.synchronize()
            self._profile = number
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise GpuError(self._reason(f"{name} {_text(shape)} is not taken"))
        if unknown := context.infer_shapes():
            raise GpuError(self._reason(f"the shapes leave {', '.join(unknown)} undetermined"))
        for name, dtype in {**self.inputs, **self.outputs}.items():
            shape = tuple(context.get_tensor_shape(name))
            if -1 in shape:  # known once the plan has run
                self._allocated[name] = _allocator(self._trt, self._buffers[name])
                done = context.set_output_allocator(name, self._allocated[name])
            else:
                address = self._buffers[name].reserve(max(1, _size(shape, dtype)))
                done = context.set_tensor_address(name, address)
            if not done:
                raise GpuError(self._reason(f"{name} {_text(shape)} cannot be placed"))
        self._shapes = shapes

    def _run(self) -> None:
        if self._graph is not None:
            return self._stream.launch(self._graph)
        self._execute()
        if self._allocated:
            self.graph_refused = self.graph_refused or "the plan has outputs of unknown size"
        if not self.graph_refused:
            # The run above did what TensorRT does once for new shapes; only now it is repeatable.
            try:
                with self._stream.captured() as graphs:
                    self._execute()
                self._graph = graphs[0]
            except GpuError as error:
                self.graph_refused = str(error)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise GpuError(self._reason("the plan did not run"))

    def _output(self, name: str) -> tuple[int, Shape]:
        if name in self._allocated:
            return self._buffers[name].address, self._allocated[name].shape
        return self._buffers[name].address, tuple(self._context.get_tensor_shape(name))

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def _new_context(self) -> tensorrt.IExecutionContext:
        # TensorRT-RTX compiles kernels while it runs, so it records its graphs itself.
        if not self.graph_refused and hasattr(self._trt, "CudaGraphStrategy"):
            config: Any = self._engine.create_runtime_config()
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self.graph_refused = "TensorRT-RTX records its own"
            context = self._engine.create_execution_context(config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise GpuError(self._reason("the plan gets no execution context"))
        return context

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def _dtype(self, name: str) -> np.dtype[Any]:
        if self._engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
            raise GpuError(f"{name} is a tensor in host memory, which is not supported")
        kind = self._engine.get_tensor_dtype(name)
        try:
            return np.dtype(self._trt.nptype(kind))
        except TypeError:
            raise GpuError(f"{name} is {kind}, which numpy does not have") from None

    def _bounds(self, name: str, profile: int) -> Bounds:
        low, _, high = self._engine.get_tensor_profile_shape(name, profile)
        return Bounds(tuple(low), tuple(high))

    def _reason(self, what: str) -> str:
        """What failed, with what TensorRT logged about it since the last time."""
        said = "; ".join(" ".join(text.split()) for text in self._log.errors)
        self._log.errors.clear()
        return f"{what}: {said or 'TensorRT gives no reason'}"


def _log(trt: Any) -> Any:
    """A logger that keeps errors for the messages and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def _allocator(trt: Any, buffer: DeviceBuffer) -> Any:
    """Gives one output the memory it needs, and keeps the shape it came out with."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: Shape = ()

        def reallocate_output(self, _name: str, _memory: int, size: int, _alignment: int) -> int:
            return buffer.reserve(max(1, size))

        def reallocate_output_async(
            self, _name: str, _memory: int, size: int, _alignment: int, _stream: int
        ) -> int:
            return buffer.reserve(max(1, size))

        def notify_shape(self, _name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Allocator()


def _size(shape: Shape, dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
