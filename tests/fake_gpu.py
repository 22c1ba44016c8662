"""Stand-ins for CUDA and TensorRT where no GPU is: host memory, and an engine that doubles.

They check what the runner asks of both (addresses, shapes, order, what is freed), not that CUDA or
TensorRT behave so; tests/gpu does that where there is a GPU. Their names are compared with the real
modules in test_tensorrt_runner.py.
"""

import ctypes
from enum import IntEnum
from types import SimpleNamespace

import numpy as np


class Driver:
    """`libcuda.so.1`, loaded with ctypes, of a machine with one GPU."""

    def __init__(self, _library="libcuda.so.1"):
        pass

    def cuInit(self, _flags):
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, device, index):
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, _size, _device):
        name.value = b"Stand-in"
        return 0

    def cuDeviceGetAttribute(self, value, attribute, _device):
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0


class Cuda:
    """`cuda.bindings.runtime` over host memory."""

    cudaError_t = IntEnum("cudaError_t", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2})
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamNonBlocking = 1

    def __init__(self, memory=2**24):
        self.memory = memory
        self.allocated = {}
        self.streams = set()
        self.ok = self.cudaError_t.cudaSuccess

    def cudaGetErrorString(self, code):
        return self.ok, code.name.encode()

    def cudaSetDevice(self, _index):
        return (self.ok,)

    def cudaStreamCreateWithFlags(self, _flags):
        self.streams.add(len(self.streams) + 1)
        return self.ok, len(self.streams)

    def cudaStreamDestroy(self, stream):
        self.streams.remove(stream)
        return (self.ok,)

    def cudaStreamSynchronize(self, _stream):
        return (self.ok,)

    def cudaMalloc(self, size):
        if size > self.memory:
            return self.cudaError_t.cudaErrorMemoryAllocation, 0
        buffer = ctypes.create_string_buffer(size)
        self.allocated[ctypes.addressof(buffer)] = buffer
        return self.ok, ctypes.addressof(buffer)

    def cudaFree(self, address):
        del self.allocated[address]
        return (self.ok,)

    def cudaMemcpyAsync(self, target, source, size, kind, _stream):
        device = target if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert size <= len(self.allocated[device]), "beyond what was allocated"
        ctypes.memmove(target, source, size)
        return (self.ok,)


class TensorRT:
    """A module whose every plan holds `y = 2 * x`, float32, and with `nonzero` also the positive
    values of x, whose number is known only after the run."""

    __version__ = "11.1.0.106"
    TensorIOMode = SimpleNamespace(INPUT=1, OUTPUT=2)
    TensorLocation = SimpleNamespace(DEVICE=1, HOST=2)

    class ILogger:
        ERROR, INTERNAL_ERROR = "error", "internal error"

    class IOutputAllocator:
        pass

    def __init__(self, cuda, profiles, nonzero=False):
        self.cuda = cuda
        self.profiles = profiles
        self.outputs = ["y", "positive"] if nonzero else ["y"]
        self.executions = 0

    def nptype(self, kind):
        return kind

    def Runtime(self, log):
        def deserialize_cuda_engine(plan):
            if plan.endswith(b"broken"):
                log.log("error", "serialization\n assertion")
                return None
            return Engine(self, log)

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)


class Engine:
    def __init__(self, trt, log):
        self.trt, self.log = trt, log
        self.num_io_tensors = 1 + len(trt.outputs)
        self.num_optimization_profiles = len(trt.profiles)

    def get_tensor_name(self, index):
        return ["x", *self.trt.outputs][index]

    def get_tensor_mode(self, name):
        return 1 if name == "x" else 2

    def get_tensor_location(self, _name):
        return 1

    def get_tensor_dtype(self, _name):
        return np.float32

    def get_tensor_profile_shape(self, _name, profile):
        return self.trt.profiles[profile]

    def create_execution_context(self):
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.trt = engine, engine.trt
        self.profile, self.shape = 0, None
        self.addresses, self.allocators = {}, {}

    def set_optimization_profile_async(self, number, _stream):
        self.profile, self.shape = number, None
        return True

    def set_input_shape(self, _name, shape):
        low, _, high = self.trt.profiles[self.profile]
        self.shape = shape
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def infer_shapes(self):
        return [] if self.shape else ["x"]

    def get_tensor_shape(self, name):
        return (-1,) if name == "positive" else self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_output_allocator(self, name, allocator):
        self.allocators[name] = allocator
        return True

    def execute_async_v3(self, _stream):
        self.trt.executions += 1
        x = self._array("x")
        self._array("y")[:] = 2 * x
        if "positive" in self.allocators:
            values, allocator = x[x > 0], self.allocators["positive"]
            address = allocator.reallocate_output_async("positive", 0, values.nbytes, 1, 0)
            ctypes.memmove(address, values.ctypes.data, values.nbytes)
            allocator.notify_shape("positive", values.shape)
        return True

    def _array(self, name):
        size = int(np.prod(self.shape))
        data = (ctypes.c_float * size).from_address(self.addresses[name])
        return np.ctypeslib.as_array(data).reshape(self.shape)
