"""Runners refuse what they cannot honour, and say why."""

import numpy as np
import onnxruntime
import pytest

from dfvt_deploy.errors import ArtifactError, StageFailed
from dfvt_deploy.onnx_model import load_onnx
from dfvt_deploy.runners import InferenceFailed
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


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x08\x0a"], ids=len)
def test_a_damaged_onnx_file_is_an_error_of_ours(tmp_path, content):
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(StageFailed, match=r"cannot load .*model.onnx: .*; make the file again"):
        OnnxRuntimeRunner(file).__enter__()
    with pytest.raises(ArtifactError, match=r"model.onnx .*; make it again"):
        load_onnx(file)


def test_inputs_that_do_not_fit_are_named(artifact_t):
    with OnnxRuntimeRunner(artifact_t.onnx_path()) as runner:
        with pytest.raises(InferenceFailed, match=r"images \(1, 7, 7, 3\): Got invalid dimensions"):
            runner.infer({"images": np.zeros((1, 7, 7, 3), np.uint8)})
        with pytest.raises(InferenceFailed, match="Unexpected input data type"):
            runner.infer({"images": np.zeros((1, 224, 224, 3), np.float32)})
