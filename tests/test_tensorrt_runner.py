"""Plans on a GPU, as far as that is known without one.

Refusals are real: no GPU here, the real cuda-bindings and TensorRT-RTX say so. What follows loading
runs over stand-ins (fake_gpu.py); tests/gpu runs the same on a GPU.
"""

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dfvt_deploy.engines import machine
from dfvt_deploy.errors import ArtifactError, BadInput, StageFailed
from dfvt_deploy.gpu import devices, plan
from dfvt_deploy.gpu.devices import (
    LIBRARIES,
    Gpu,
    GpuError,
    InvalidInput,
    Library,
    NotInstalled,
    Unavailable,
    library_of,
    load_library,
)
from dfvt_deploy.gpu.plan import (
    DeviceBuffer,
    LoadedPlan,
    error_log,
    fitting_profile,
    output_allocator,
)
from dfvt_deploy.runners.tensorrt import TensorRTRunner
from dfvt_deploy.types import Flavor

from .fake_gpu import Context, Cuda, Driver, Engine, TensorRT
from .plans import RUNTIME, stand_in_plan

ONE_TO_EIGHT = [(1, 3), (2, 3), (8, 3)]
NINE_TO_SIXTEEN = [(9, 3), (9, 3), (16, 3)]


def test_without_a_gpu_the_driver_says_so():
    with pytest.raises(Unavailable, match=r"no NVIDIA GPU can be used: .*--gpus=all"):
        devices.gpu()
    assert devices.find_gpu() is None


def test_the_gpus_of_the_driver_are_found(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", Driver)
    assert devices.gpu() == Gpu("Stand-in", "9.0")
    with pytest.raises(Unavailable, match="there is no GPU 1; CUDA finds 1"):
        devices.gpu(1)
    monkeypatch.setattr(Driver, "cuInit", lambda *_: 803)
    with pytest.raises(Unavailable, match="the driver reports CUDA error 803"):
        devices.gpu()


def test_missing_bindings_end_with_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(NotInstalled, match=r"pip install 'dfvt-deploy\[tensorrt\]'"):
        plan.Stream(0)


def test_the_first_bytes_say_what_runs_a_plan():
    assert set(LIBRARIES) == {str(flavor) for flavor in Flavor}
    assert load_library(library_of(b"vtrt" + bytes(8))).__version__.startswith("1.")
    with pytest.raises(GpuError, match="no TensorRT plan: it starts with 50 4b"):
        library_of(b"PK\3\4")
    with pytest.raises(NotInstalled, match=r"TensorRT is not installed.*\[tensorrt\]"):
        load_library(library_of(b"ftrt"))


def test_a_library_that_cannot_be_loaded_says_why(monkeypatch, tmp_path):
    broken = "raise OSError('libnvinfer.so.10: cannot open shared object file')"
    (tmp_path / "broken_bindings.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Unavailable, match=r"libnvinfer\.so\.10.*--force-reinstall"):
        load_library(Library("TensorRT", b"ftrt", ("broken_bindings",), "tensorrt"))


def test_the_stand_ins_have_the_names_of_the_real_modules():
    import tensorrt_rtx_bindings as trt
    from cuda.bindings import runtime

    pairs = [
        (Cuda, runtime),
        (Engine, trt.ICudaEngine),
        (Context, trt.IExecutionContext),
        (TensorRT, trt),
        (TensorRT.ILogger, trt.ILogger),
    ]
    for stand_in, real in pairs:
        names = {name for name in vars(stand_in) if not name.startswith("_")}
        assert [name for name in names if not hasattr(real, name)] == []
    for name in ("num_io_tensors", "num_optimization_profiles"):
        assert hasattr(trt.ICudaEngine, name)
    assert trt.TensorIOMode.INPUT != trt.TensorIOMode.OUTPUT
    assert trt.TensorLocation.DEVICE != trt.TensorLocation.HOST


def test_the_real_runtime_takes_our_logger_and_its_reasons_arrive():
    import tensorrt_rtx_bindings as trt

    log = error_log(trt)
    assert trt.Runtime(log).deserialize_cuda_engine(b"vtrt" + bytes(100)) is None
    assert any("erialization" in text for text in log.errors)
    assert isinstance(output_allocator(trt, DeviceBuffer()), trt.IOutputAllocator)


def test_a_shape_outside_the_profile_is_named_with_the_range():
    small = {"images": ((1, 224, 224, 3), (8, 224, 224, 3))}
    large = {"images": ((9, 224, 224, 3), (64, 224, 224, 3))}
    assert fitting_profile([small, large], {"images": (8, 224, 224, 3)}) == 0
    assert fitting_profile([small, large], {"images": (9, 224, 224, 3)}) == 1
    with pytest.raises(
        InvalidInput, match=r"images 9x224x224x3: dimension 0 is 9, the plan takes 1..8"
    ):
        fitting_profile([small], {"images": (9, 224, 224, 3)})
    with pytest.raises(InvalidInput, match="images 224x224x3 has 3 dimensions, not 4"):
        fitting_profile([small], {"images": (224, 224, 3)})
    with pytest.raises(InvalidInput, match=r"1\.\.8 there .*9\.\.64 there"):
        fitting_profile([small, large], {"images": (65, 224, 224, 3)})


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    """Loads a stand-in plan; at the end, everything must have been freed."""
    opened: list[tuple[LoadedPlan, Cuda]] = []

    def load(profiles=(ONE_TO_EIGHT,), content=b"", memory=2**24, **options):
        fake = Cuda(memory)
        trt = TensorRT(fake, list(profiles), **options)
        monkeypatch.setattr(ctypes, "CDLL", Driver)
        monkeypatch.setattr(plan, "_runtime", lambda: fake)
        for module in (plan, machine):
            monkeypatch.setattr(module, "load_library", lambda _library: trt)
        path = tmp_path / "model.fp16.sm90.plan"
        path.write_bytes(b"ftrt" + content)
        opened.append((LoadedPlan(path), fake))
        return SimpleNamespace(plan=opened[-1][0], cuda=fake, trt=trt)

    yield load
    for one, fake in opened:
        with one:
            pass
        assert (fake.allocated, fake.streams) == ({}, set())


def _x(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def test_outputs_have_the_shape_of_each_batch_and_buffers_grow(loaded):
    found = loaded()
    for size in (2, 8, 1, 8):
        x = _x(size, 3)
        (y,) = found.plan.infer({"x": x}).values()
        assert np.array_equal(y, 2 * x)
    assert sorted(len(b) for b in found.cuda.allocated.values()) == [8 * 3 * 4] * 2


def test_an_array_that_is_not_contiguous_is_taken(loaded):
    x = _x(3, 4).T[:4]
    assert np.array_equal(loaded().plan.infer({"x": x})["y"], 2 * x)


def test_the_profile_that_fits_is_chosen(loaded):
    found = loaded([ONE_TO_EIGHT, NINE_TO_SIXTEEN])
    for size in (16, 1, 9):
        assert np.array_equal(found.plan.infer({"x": _x(size, 3)})["y"], 2 * _x(size, 3))
    with pytest.raises(InvalidInput, match="dimension 0 is 17"):
        found.plan.infer({"x": _x(17, 3)})
    assert np.array_equal(found.plan.infer({"x": _x(9, 3)})["y"], 2 * _x(9, 3))


def test_an_output_of_unknown_size_comes_out_whole(loaded):
    found = loaded(nonzero=True)
    for size in (8, 2):
        x = _x(size, 3)
        made = found.plan.infer({"x": x})
        assert np.array_equal(made["positive"], x[x > 0])
        assert np.array_equal(made["y"], 2 * x)


def test_what_tensorrt_says_is_in_the_message(loaded):
    with pytest.raises(GpuError, match="cannot be loaded: serialization assertion"):
        loaded(content=b"broken")


def test_memory_that_runs_out_is_said_so_and_leaves_the_plan_usable(loaded):
    found = loaded(memory=60)
    with pytest.raises(GpuError, match="cudaErrorMemoryAllocation"):
        found.plan.infer({"x": _x(8, 3)})
    assert np.array_equal(found.plan.infer({"x": _x(2, 3)})["y"], 2 * _x(2, 3))


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"z": _x(1, 3)}, r"inputs \['z'\] are given, the plan takes \['x'\]"),
        ({"x": _x(1, 3).astype(np.float64)}, "x is float64, the plan takes float32"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(loaded, feed, message):
    with pytest.raises(InvalidInput, match=message):
        loaded().plan.infer(feed)


def test_the_runner_verifies_the_plan_before_it_loads_it(loaded, tmp_path):
    loaded()  # the stand-ins are in place
    path = stand_in_plan(tmp_path / "a", {"x": ONE_TO_EIGHT})
    with TensorRTRunner(path) as runner:
        assert np.array_equal(runner.infer({"x": _x(2, 3)})["y"], 2 * _x(2, 3))
        with pytest.raises(BadInput, match="dimension 0 is 9"):
            runner.infer({"x": _x(9, 3)})
    other_gpu = stand_in_plan(tmp_path / "b", {"x": ONE_TO_EIGHT}, compute_capability="8.9")
    other_version = stand_in_plan(tmp_path / "c", {"x": ONE_TO_EIGHT}, version="10.16.1.11")
    stripped = stand_in_plan(tmp_path / "d", {"x": ONE_TO_EIGHT}, weights_stripped=True)
    cut = stand_in_plan(tmp_path / "e", {"x": ONE_TO_EIGHT})
    cut.write_bytes(cut.read_bytes()[:-10])
    for bad, message in (
        (other_gpu, "8.9, this one has 9.0"),
        (other_version, f"10.16.1.11 and cannot be loaded by {RUNTIME}"),
        (stripped, "without its weights"),
        (cut, "cut off"),
    ):
        with pytest.raises(ArtifactError, match=message), TensorRTRunner(bad):
            pass


def test_the_runner_ends_with_3_where_there_is_no_gpu(tmp_path: Path):
    path = stand_in_plan(tmp_path, {"x": ONE_TO_EIGHT}, flavor=Flavor.RTX, version="1.7.1.116")
    with pytest.raises(StageFailed, match="no NVIDIA GPU can be used"), TensorRTRunner(path):
        pass
