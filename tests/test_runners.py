"""Runners refuse what they cannot honour."""

import onnxruntime
import pytest

from dfvt_deploy.errors import StageFailed
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this onnxruntime was built with CUDA",
)
@pytest.mark.filterwarnings("default")  # onnxruntime warns, and goes on with the next provider
def test_another_provider_than_the_one_asked_for_is_refused(artifact_t):
    providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
    with (
        pytest.raises(StageFailed, match=r"not on CUDAExecutionProvider; .*onnxruntime-gpu"),
        OnnxRuntimeRunner(artifact_t.onnx_path(), providers),
    ):
        pass
