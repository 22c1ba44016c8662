"""The CUDA layer on a real GPU; needs numpy and cuda-bindings alone."""

import re

import numpy as np
import pytest

from dfvt_deploy.runners.gpu import cuda
from dfvt_deploy.runners.gpu.cuda import DeviceBuffer, GpuError, Stream

pytestmark = pytest.mark.gpu


@pytest.fixture
def stream():
    with Stream(0) as made:
        yield made


@pytest.fixture
def buffer(stream):
    made = DeviceBuffer()
    yield made
    made.close()


def test_the_gpu_says_what_it_is():
    found = cuda.gpu(0)
    assert found.name.isprintable()
    assert re.fullmatch(r"\d+\.\d", found.compute_capability)
    assert found.memory_bytes > 2**30
    with pytest.raises(cuda.Unavailable, match="there is no GPU 99"):
        cuda.gpu(99)


def test_the_engine_builder_finds_the_same_gpu():
    from dfvt_deploy.engines.gpu import find_gpu

    found = find_gpu()
    assert (found.name, found.compute_capability) == (
        cuda.gpu(0).name,
        cuda.gpu(0).compute_capability,
    )


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


def test_a_captured_graph_runs_when_launched(stream, buffer):
    runtime = cuda._bindings()
    address = buffer.reserve(1000)
    stream.copy_in(address, np.zeros(1000, np.uint8))
    with stream.captured() as graphs:
        cuda._checked(runtime.cudaMemsetAsync(address, 7, 1000, stream.handle))
    back = stream.copy_out(address, (1000,), np.uint8)
    stream.synchronize()
    assert not back.any()
    stream.launch(graphs[0])
    back = stream.copy_out(address, (1000,), np.uint8)
    stream.synchronize()
    assert (back == 7).all()
    graphs[0].close()


def test_what_cannot_be_captured_is_said_and_the_stream_goes_on(stream, buffer):
    with pytest.raises(GpuError, match="aptur"), stream.captured():
        stream.synchronize()
    sent = np.arange(10)
    stream.copy_in(buffer.reserve(sent.nbytes), sent)
    back = stream.copy_out(buffer.address, sent.shape, sent.dtype)
    stream.synchronize()
    assert np.array_equal(sent, back)


def test_memory_that_is_not_there_is_refused(stream, buffer):
    with pytest.raises(GpuError, match="cudaErrorMemoryAllocation"):
        buffer.reserve(2**50)
    assert buffer.reserve(1000)
