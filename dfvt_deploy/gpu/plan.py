"""A TensorRT or TensorRT-RTX plan, loaded and run by a few calls of NVIDIA's cuda-bindings."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .devices import GpuError, InvalidInput, NotInstalled, gpu, library_of, load_library

Shape = tuple[int, ...]

#: The shapes that an input may have: the least and the largest size of each dimension.
Bounds = tuple[Shape, Shape]


def fitting_profile(profiles: Sequence[Mapping[str, Bounds]], shapes: Mapping[str, Shape]) -> int:
    """The number of the first profile that takes the inputs' shapes; else InvalidInput."""
    reasons = []
    for number, profile in enumerate(profiles):
        misfits = [text for name in profile if (text := _misfit(name, shapes[name], profile[name]))]
        if not misfits:
            return number
        reasons.append(misfits[0])
    raise InvalidInput(
        "; ".join(dict.fromkeys(reasons))
        + "; --min-batch, --max-batch, --min-size and --max-size of build-trt give other shapes"
    )


def _misfit(name: str, shape: Shape, bounds: Bounds) -> str:
    """What is wrong with the shape of an input; empty where the shape fits."""
    if len(shape) != len(bounds[0]):
        return f"{name} {format_shape(shape)} has {len(shape)} dimensions, not {len(bounds[0])}"
    for axis, (low, size, high) in enumerate(zip(bounds[0], shape, bounds[1], strict=True)):
        if not low <= size <= high:
            return (
                f"{name} {format_shape(shape)}: dimension {axis} is {size}, the plan takes "
                f"{low}..{high} there ({' .. '.join(map(format_shape, bounds))})"
            )
    return ""


def format_shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


class LoadedPlan(AbstractContextManager["LoadedPlan"]):
    """The plan of a file on the GPU with this number, freed at the end of the `with` block.
    `inputs` and `outputs` are numpy dtypes by tensor name, `profiles`, for each optimization
    profile, the bounds of every input. Raises Unavailable where no GPU, or no TensorRT of the
    plan's kind, was found, GpuError where TensorRT does not take the plan, with its reason."""

    def __init__(self, path: Path, device: int = 0) -> None:
        plan = path.read_bytes()
        self._trt = load_library(library_of(plan))
        gpu(device)
        self._log = error_log(self._trt)
        self._allocated: dict[str, Any] = {}
        self._shapes: dict[str, Shape] = {}
        self._profile = 0
        with ExitStack() as resources:
            self._stream = resources.enter_context(Stream(device))
            runtime = self._trt.Runtime(self._log)
            engine = runtime.deserialize_cuda_engine(plan)
            context = None if engine is None else engine.create_execution_context()
            if engine is None or context is None:
                raise GpuError(self._reason(f"{path.name} cannot be loaded"))
            self._runtime, self._engine, self._context = runtime, engine, context
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            taken = [n for n in names if engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT]
            self.inputs = {name: self._dtype(name) for name in taken}
            self.outputs = {name: self._dtype(name) for name in names if name not in taken}
            self.profiles = [
                {name: self._bounds(name, number) for name in taken}
                for number in range(engine.num_optimization_profiles)
            ]
            self._buffers = {name: resources.enter_context(DeviceBuffer()) for name in names}
            self._resources = resources.pop_all()

    def __exit__(self, *_raised: object) -> None:
        self._stream.use_device()
        # TensorRT frees an object with its last reference; the context must go first.
        del self._allocated, self._context, self._engine, self._runtime
        self._resources.close()

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the plan on arrays in host memory. Raises InvalidInput where an input is missing,
        unknown, or has another dtype or shape than the plan takes, GpuError where the run failed.
        """
        if feed.keys() != self.inputs.keys():
            given, taken = sorted(feed), sorted(self.inputs)
            raise InvalidInput(f"inputs {given} are given, the plan takes {taken}")
        for name, dtype in self.inputs.items():
            if feed[name].dtype != dtype:
                raise InvalidInput(f"{name} is {feed[name].dtype}, the plan takes {dtype}")
        arrays = {name: np.ascontiguousarray(feed[name]) for name in self.inputs}
        self._stream.use_device()
        self._prepare({name: array.shape for name, array in arrays.items()})
        for name, array in arrays.items():
            self._stream.copy_in(self._buffers[name].address, array)
        if not self._context.execute_async_v3(self._stream.handle):
            raise GpuError(self._reason("the plan did not run"))
        results = {
            name: self._stream.copy_out(self._buffers[name].address, self._shape(name), dtype)
            for name, dtype in self.outputs.items()
        }
        self._stream.synchronize()
        return results

    def _prepare(self, shapes: dict[str, Shape]) -> None:
        """Set shapes and addresses; does nothing where the shapes are those of the last run."""
        if shapes == self._shapes:
            return
        number = fitting_profile(self.profiles, shapes)
        self._shapes = {}
        context = self._context
        if number != self._profile:
            if not context.set_optimization_profile_async(number, self._stream.handle):
                raise GpuError(self._reason(f"profile {number} cannot be used"))
            self._stream.synchronize()
            self._profile = number
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise GpuError(self._reason(f"{name} {format_shape(shape)} is not taken"))
        if unknown := context.infer_shapes():
            raise GpuError(self._reason(f"the shapes leave {', '.join(unknown)} undetermined"))
        for name, dtype in {**self.inputs, **self.outputs}.items():
            shape = tuple(context.get_tensor_shape(name))
            if -1 in shape:  # the shape is known once the plan has run
                self._allocated[name] = output_allocator(self._trt, self._buffers[name])
                placed = context.set_output_allocator(name, self._allocated[name])
            else:
                size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
                placed = context.set_tensor_address(name, self._buffers[name].reserve(size))
            if not placed:
                raise GpuError(self._reason(f"{name} {format_shape(shape)} cannot be placed"))
        self._shapes = shapes

    def _shape(self, output: str) -> Shape:
        allocated = self._allocated.get(output)
        return tuple(allocated.shape if allocated else self._context.get_tensor_shape(output))

    def _bounds(self, name: str, profile: int) -> Bounds:
        low, _, high = self._engine.get_tensor_profile_shape(name, profile)
        return tuple(low), tuple(high)

    def _dtype(self, name: str) -> np.dtype[Any]:
        if self._engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
            raise GpuError(f"{name} is a tensor in host memory, which is not supported")
        kind = self._engine.get_tensor_dtype(name)
        try:
            return np.dtype(self._trt.nptype(kind))
        except TypeError:
            raise GpuError(f"{name} is {kind}, which numpy does not have") from None

    def _reason(self, what: str) -> str:
        """What failed, with the errors that TensorRT logged since the last failure."""
        logged = "; ".join(" ".join(text.split()) for text in self._log.errors)
        self._log.errors.clear()
        return f"{what}: {logged or 'TensorRT gives no reason'}"


def error_log(trt: Any) -> Any:
    """A TensorRT logger that prints nothing and appends each error to its list `errors`."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def output_allocator(trt: Any, buffer: "DeviceBuffer") -> Any:
    """Gives an output of unknown size the memory it needs; `shape` is the output's last shape."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, _name: str, _memory: int, size: int, *_more: int) -> int:
            return buffer.reserve(size)

        reallocate_output_async = reallocate_output

        def notify_shape(self, _name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Allocator()


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


class DeviceBuffer(AbstractContextManager["DeviceBuffer"]):
    """Memory on the current GPU that grows to what is asked for, until the `with` block ends."""

    address = capacity = 0

    def reserve(self, size: int) -> int:
        """The address of at least `size` bytes; earlier content may be gone."""
        size = max(1, size)
        if size > self.capacity:
            self.__exit__()
            self.address = int(_checked(_runtime().cudaMalloc(size)))
            self.capacity = size
        return self.address

    def __exit__(self, *_raised: object) -> None:
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
