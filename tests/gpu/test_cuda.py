"""The CUDA layer on a real GPU; needs numpy and cuda-bindings alone."""

import re

import numpy as np
import pytest

from dfvt_deploy.gpu import devices
from dfvt_deploy.gpu.devices import GpuError, Unavailable
from dfvt_deploy.gpu.plan import DeviceBuffer, Stream

pytestmark = pytest.mark.gpu


@pytest.fixture
def stream():
    with Stream(0) as made:
        yield made


@pytest.fixture
def buffer(stream):
    with DeviceBuffer() as made:
        yield made


def test_the_gpu_says_what_it_is():
    found = devices.gpu(0)
    assert found.name.isprintable()
    assert re.fullmatch(r"\d+\.\d", found.compute_capability)
    with pytest.raises(Unavailable, match="there is no GPU 99"):
        devices.gpu(99)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int64])
def test_arrays_come_back_as_they_went(stream, buffer, dtype):
    rng = np.random.default_rng(0)
    for size in (7, 3_000_000, 11):
        sent = rng.integers(0, 100, size).astype(dtype)
        stream.copy_in(buffer.reserve(sent.nbytes), sent)
        back = stream.copy_out(buffer.address, sent.shape, dtype)
        stream.synchronize()
        assert np.array_equal(sent, back)
    assert buffer.capacity == 3_000_000 * np.dtype(dtype).itemsize


def test_memory_that_is_not_there_is_refused(stream, buffer):
    with pytest.raises(GpuError, match="cudaErrorMemoryAllocation"):
        buffer.reserve(2**50)
    assert buffer.reserve(1000)
