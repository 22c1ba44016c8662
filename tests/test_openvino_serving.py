"""The openvino backend: its settings, what it refuses, and its answers from a real server."""

import numpy as np
import pytest

from dfvt_deploy.errors import BadInput
from dfvt_deploy.exporters.recipe import random_images
from dfvt_deploy.runners.openvino import OpenVINORunner
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving.config import from_text
from dfvt_deploy.serving.options import PopulateOptions
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve
from dfvt_deploy.types import Precision

from .test_openvino import needs_bfloat16

NETWORK = "dfvt_t_classification_network"


@pytest.fixture(scope="module")
def repository(artifact_t, tmp_path_factory):
    repository = tmp_path_factory.mktemp("openvino") / "model_repository"
    populate(
        artifact_t.directory, repository=repository, backend="openvino", precision="bf16", threads=1
    )
    return repository


def test_the_settings_are_those_of_nvidias_backend(repository, artifact_t):
    config = from_text((repository / NETWORK / "config.pbtxt").read_text())
    assert (config.backend, config.default_model_filename) == ("openvino", "model.onnx")
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": "1",
        "HINT_BF16": "YES",
    }
    served = repository / NETWORK / "1" / "model.onnx"
    assert served.read_bytes() == artifact_t.onnx_path().read_bytes()


@needs_bfloat16
def test_a_server_answers_in_bfloat16_as_the_runner_does(repository, artifact_t):
    feed = {"images": random_images(3, 224, 224)}
    with OpenVINORunner(artifact_t.onnx_path(), Precision.BF16, threads=1) as runner:
        expected = runner.infer(feed)["logits"]
    with OpenVINORunner(artifact_t.onnx_path()) as runner:
        exact = runner.infer(feed)["logits"]
    with (
        serve(repository) as server,
        TritonRunner(NETWORK, server.grpc_url, "grpc") as client,
    ):
        served = client.infer(feed)["logits"]
    rounding = np.abs(expected - exact).max()
    assert np.abs(served - expected).max() < rounding / 10
    assert np.abs(served - exact).max() > rounding / 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "openvino"}, "serves bf16 and int8, not fp32"),
        ({"backend": "openvino", "precision": "fp16"}, "serves bf16 and int8, not fp16"),
        ({"precision": "bf16"}, "--precision bf16 is for --backend openvino"),
        ({"backend": "tensorrt", "precision": "bf16"}, "bf16 is for --backend openvino"),
        ({"backend": "openvino", "precision": "bf16", "device": "gpu"}, "runs on the CPU"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        PopulateOptions(**fields)
