"""Plans on a real GPU, against onnxruntime: those of the folder DFVT_GPU_EXPORTS.

Needs onnxruntime, TensorRT or TensorRT-RTX, and this package's own requirements.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from dfvt_deploy.artifact import open_artifact
from dfvt_deploy.engines.record import read_record
from dfvt_deploy.errors import BadInput
from dfvt_deploy.gpu.devices import gpu
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.tensorrt import TensorRTRunner
from dfvt_deploy.types import Precision

pytestmark = pytest.mark.gpu

PLANS = sorted(Path(os.environ.get("DFVT_GPU_EXPORTS", "exports")).glob("*/*.plan"))

#: Largest difference from onnxruntime's float32, in units of the output's standard deviation, and
#: share of whole numbers (class maps, labels) that are equal.
LIMITS = {Precision.FP32: (0.02, 0.999), Precision.FP16: (0.1, 0.99), Precision.INT8: (1.0, 0.9)}


@pytest.fixture(params=PLANS, ids=lambda path: f"{path.parent.name}-{path.name}")
def plan(request) -> Path:
    record = read_record(request.param)
    if not record.runs_on(gpu().compute_capability):
        pytest.skip(f"for GPUs of compute capability {record.runs_where}")
    return request.param


def test_there_are_plans():
    assert PLANS, "make some with: dfvt-deploy build-trt, and name their folder in DFVT_GPU_EXPORTS"


def _feed(plan: Path, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random images of the least size above 200 that the plan takes."""
    manifest = open_artifact(plan.parent).manifest
    profile = read_record(plan).profile
    rng = np.random.default_rng(seed)
    feed = {}
    for spec in manifest.inputs:
        low, high = profile[spec.name].min, profile[spec.name].max
        shape = [batch, *(min(max(a, 224), b) for a, b in zip(low[1:], high[1:], strict=True))]
        if spec.name == "image_sizes":
            feed[spec.name] = np.full((batch, 2), 200, np.int64)
        elif spec.dtype == "uint8":
            feed[spec.name] = rng.integers(0, 256, shape, dtype=np.uint8)
        else:
            feed[spec.name] = rng.standard_normal(shape, dtype=np.float32)
    return feed


def test_outputs_are_those_of_onnxruntime(plan):
    artifact, record = open_artifact(plan.parent), read_record(plan)
    limit, share = LIMITS[record.precision]
    source = artifact.onnx_path(record.precision)
    with (
        OnnxRuntimeRunner(artifact.onnx_path()) as reference,
        TensorRTRunner(plan, source=source) as runner,
    ):
        for batch in sorted({1, min(3, record.max_batch)}):
            feed = _feed(plan, batch, seed=batch)
            expected, found = reference.infer(feed), runner.infer(feed)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype)
                if value.dtype.kind == "f" and "boxes" not in expected:
                    worst = np.abs(found[name] - value).max() / value.std()
                    assert worst < limit, f"{name}: {worst:.3g}"
                elif value.dtype.kind != "f":
                    equal = (found[name] == value).mean()
                    assert equal > share or "boxes" in expected, f"{name}: {equal:.4f}"


def test_batches_beyond_the_profile_are_refused_and_the_runner_goes_on(plan):
    batch = read_record(plan).max_batch
    with TensorRTRunner(plan) as runner:
        first = runner.infer(_feed(plan, 1))
        with pytest.raises(BadInput, match=f"dimension 0 is {batch + 1}"):
            runner.infer(_feed(plan, batch + 1))
        again = runner.infer(_feed(plan, 1))
    for name, value in first.items():
        assert np.allclose(again[name], value, atol=1e-3)
