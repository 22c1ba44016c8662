"""The exported files in OpenVINO: the answers of onnxruntime in float32, near ones in bfloat16."""

import shutil
import sys

import numpy as np
import onnx
import openvino
import pytest

from dfvt_deploy import bench, convert, lint, open_artifact, validate
from dfvt_deploy.benchmarking.candidates import candidates_of
from dfvt_deploy.compare import Comparison, comparison_of
from dfvt_deploy.compare.agreement import checks
from dfvt_deploy.engines.options import BuildOptions
from dfvt_deploy.errors import ArtifactError, BadInput, MissingDependency, StageFailed
from dfvt_deploy.exporters.recipe import random_images
from dfvt_deploy.models.rpn import STRIDES
from dfvt_deploy.openvino_models import CompiledModels
from dfvt_deploy.precision.graph_tensors import load_exported
from dfvt_deploy.precision.int8 import Int8Conversion
from dfvt_deploy.precision.openvino_int8 import OpenVINOInt8Conversion
from dfvt_deploy.precision.options import ConvertOptions
from dfvt_deploy.runners import InferenceFailed, network_file
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.openvino import OpenVINORunner
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve
from dfvt_deploy.types import Int8Target, Precision, RangeMethod

INT8_FILE = "model.int8.openvino.onnx"
TASKS = "classification", "detection", "segmentation"

needs_bfloat16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this CPU has no bfloat16 instructions",
)


@pytest.fixture(scope="module")
def artifacts(artifact_t, detection_artifact_t, segmentation_artifact_t):
    return dict(
        zip(TASKS, (artifact_t, detection_artifact_t, segmentation_artifact_t), strict=True)
    )


def feeds(task, canvases):
    if task == "classification":
        return [{"images": random_images(batch, 224, 224) // 2} for batch, _, _ in canvases]
    return [
        {
            "images": random_images(batch, height, width) // 2,
            "image_sizes": np.array([[height - 5 * i, width - 3 * i] for i in range(batch)]),
        }
        for batch, height, width in canvases
    ]


def agreement(artifact, canvases, precision):
    task = artifact.manifest.task
    with OnnxRuntimeRunner(artifact.onnx_path()) as reference:
        comparison = Comparison(task, feeds(task, canvases), reference)
    with OpenVINORunner(artifact.onnx_path(), precision) as runner:
        return comparison.agreement(runner)


@pytest.mark.parametrize("task", TASKS)
def test_float32_gives_the_answers_of_onnxruntime_at_every_size(artifacts, task):
    found = agreement(artifacts[task], [(1, 96, 64), (2, 64, 128)], Precision.FP32)
    limits = comparison_of(found.task).limits[Precision.FP32]
    assert all(check.passed for check in checks(found, limits)), found
    assert found.shares[comparison_of(found.task).share][1] > 0


@needs_bfloat16
@pytest.mark.parametrize(
    ("task", "least"), [("classification", 0.5), ("detection", 0.3), ("segmentation", 0.8)]
)
def test_bfloat16_is_another_computation_with_near_answers(artifacts, task, least):
    found = agreement(artifacts[task], [(2, 96, 64)], Precision.BF16)
    comparison = comparison_of(found.task)
    assert found.figures[comparison.share] >= least, found
    assert all(tensor.non_finite == 0 for tensor in found.tensors.values())
    assert any(tensor.max_abs > 1e-4 for tensor in found.tensors.values())


def test_no_roi_align_meets_a_box_that_runtimes_read_differently(detection_artifact_t, tmp_path):
    """Boxes without area or outside the map give zeros in one runtime and NaN in another."""
    model = onnx.load(detection_artifact_t.onnx_path())
    nodes = [node for node in model.graph.node if node.op_type == "RoiAlign"]
    assert len(nodes) == 8
    for name in {node.input[1] for node in nodes}:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, [None, 4]))
    onnx.save(model, tmp_path / "model.onnx")
    (feed,) = feeds("detection", [(1, 32, 64)])  # fewer anchors than proposals: empty slots
    with OnnxRuntimeRunner(tmp_path / "model.onnx") as runner:
        outputs = runner.infer(feed)
    for node, stride in zip(nodes, 2 * STRIDES[:4], strict=True):
        (scale,) = (a.f for a in node.attribute if a.name == "spatial_scale")
        assert scale == 1 / stride
        boxes = outputs[node.input[1]] * scale - 0.5
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= -0.5).all()
        assert (boxes <= [64 / stride, 32 / stride] * 2).all()


def test_a_batch_is_cut_into_sizes_that_are_compiled(artifact_t):
    images = random_images(15, 224, 224)
    models = CompiledModels(artifact_t.onnx_path(), {"INFERENCE_PRECISION_HINT": "f32"})
    single = [models.infer({"images": images[i : i + 1]})["logits"] for i in range(15)]
    for size in (3, 6, 15, 8):
        found = models.infer({"images": images[:size]})["logits"]
        np.testing.assert_allclose(found, np.concatenate(single[:size]), atol=1e-3)
    assert sorted(models._models) == [1, 2, 4, 8]
    models.compile_all()


def test_a_file_with_free_sides_has_one_model(segmentation_artifact_t):
    models = CompiledModels(segmentation_artifact_t.onnx_path(), {})
    for feed in feeds("segmentation", [(1, 64, 64), (2, 64, 32)]):
        assert models.infer(feed)["class_map"].shape[1:] == feed["images"].shape[1:3]
    assert list(models._models) == [0]


def test_inputs_that_do_not_fit_are_named(artifact_t):
    images = random_images(1, 224, 224)
    with OpenVINORunner(artifact_t.onnx_path(), threads=1, streams=1) as runner:
        with pytest.raises(InferenceFailed, match=r"images \(1, 7, 7, 3\): .*incompatible"):
            runner.infer({"images": images[:, :7, :7]})
        with pytest.raises(InferenceFailed, match="takes images of uint8, not images of float32"):
            runner.infer({"images": images.astype(np.float32)})
        with pytest.raises(InferenceFailed, match="takes images of uint8, not nothing"):
            runner.infer({})
        assert runner.infer({"images": images})["logits"].shape == (1, 1000)


def test_what_openvino_cannot_do_is_refused(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"no protobuf at all")
    with pytest.raises(StageFailed, match=r"cannot compile .*model.onnx: .*; make the file again"):
        OpenVINORunner(file).__enter__()
    with pytest.raises(BadInput, match="does not compute in fp16; use one of fp32, bf16, int8"):
        OpenVINORunner(file, Precision.FP16)


@pytest.mark.parametrize("options", [ConvertOptions, BuildOptions])
def test_bf16_has_no_file_of_its_own(artifact_t, options):
    with pytest.raises(BadInput, match=r"bf16 has no file of its own: it is model\.onnx"):
        options(precision="bf16")
    with pytest.raises(BadInput, match="bf16 has no file"):
        artifact_t.onnx_path(Precision.BF16)


@pytest.fixture(scope="module")
def nncf_digits(digits, digits_artifact, tmp_path_factory):
    """The digits model with its INT8 file for OpenVINO."""
    directory = tmp_path_factory.mktemp("nncf") / "digits"
    shutil.copytree(digits_artifact.directory, directory)
    return convert(
        directory, "int8", target="openvino", calibration=digits.heldout, images=32
    ).artifact


def test_nncf_quantises_layers_and_no_depthwise_convolution(nncf_digits):
    record = nncf_digits.manifest.conversions[INT8_FILE]
    assert record.calibration.method == "nncf"
    assert {name for name, row in record.operators.items() if "int8" in row} <= {
        "Conv",
        "Gemm",
        "MatMul",
    }
    assert any("in openvino against FP32" in check.name for check in record.checks)
    model = onnx.load(nncf_digits.directory / INT8_FILE)
    dequantised = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    depthwise = [n for n in convolutions if any(a.name == "group" and a.i > 1 for a in n.attribute)]
    quantised = [node for node in convolutions if dequantised & set(node.input)]
    assert len(quantised) == len(convolutions) - len(depthwise) > 0
    assert not [node for node in depthwise if node in quantised]
    assert record.operators["Conv"]["int8"] == len(quantised)


def test_the_int8_file_for_openvino_is_judged_and_served_there(nncf_digits, digits, tmp_path):
    directory = nncf_digits.directory
    found = validate(
        directory,
        checkpoint=digits.checkpoint,
        dataset="imagenet",
        data=digits.heldout,
        limit=60,
        max_drop=5,
        precisions=["int8"],
        threads=1,
    )
    assert found.stage("int8 openvino").file == INT8_FILE
    artifact = open_artifact(directory)
    assert artifact.verdict(INT8_FILE, Precision.INT8).verdict == "passed"
    assert network_file(artifact, "openvino", Precision.INT8).name == INT8_FILE
    with pytest.raises(ArtifactError, match=r"has no model\.int8\.onnx; make it with"):
        network_file(artifact, "onnxruntime", Precision.INT8)
    [candidate] = candidates_of(artifact, precisions=[Precision.INT8])
    assert (candidate.file.name, candidate.verdict) == (INT8_FILE, "passed")
    at = {"repository": tmp_path / "repository", "require_validated": True}
    populate(directory, backend="openvino", precision="int8", threads=1, instances=1, **at)
    (found,) = lint(at["repository"]).findings
    assert found.fix.endswith(f"--served {INT8_FILE}")
    feed = {"images": random_images(3, 224, 224)}
    with OpenVINORunner(directory / INT8_FILE, Precision.INT8, threads=1) as runner:
        expected = runner.infer(feed)["logits"]
    with (
        serve(at["repository"]) as server,
        TritonRunner("digits_network", server.grpc_url, "grpc") as client,
    ):
        assert np.allclose(client.infer(feed)["logits"], expected, atol=1e-4)
        at_url = {"url": server.grpc_url, "served": INT8_FILE, "concurrency": (1,)}
        (row,) = bench(directory, images=digits.heldout, limit=2, window=0.05, **at_url).served
        assert (row.title, row.wrong, row.failed) == ("openvino int8", 0, 0)


def test_only_a_classifier_has_its_small_convolutions_quantised(segmentation_artifact_t, tmp_path):
    manifest = segmentation_artifact_t.manifest
    model = load_exported(segmentation_artifact_t.onnx_path(), manifest)
    dense, other = (
        OpenVINOInt8Conversion(model, tmp_path, dense=value, seven=False) for value in (True, False)
    )
    assert dense.kept((), ()) == Int8Conversion(
        model, tmp_path, RangeMethod.MINMAX, Int8Target.CPU, False
    ).kept((), ())
    few, most = len(other.kept((), ())), len(dense.kept((), ()))
    assert most - few >= 30


def test_what_openvinos_int8_does_not_take_is_refused(artifact_t, monkeypatch):
    with pytest.raises(BadInput, match=r"--method.*not for --target openvino"):
        convert(artifact_t.directory, "int8", target="openvino", method="minmax")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingDependency, match=r"nncf is not installed.*\[openvino\]"):
        convert(artifact_t.directory, "int8", target="openvino")


def test_threads_are_not_pinned_to_the_cores_of_other_processes(artifact_t):
    models = CompiledModels(artifact_t.onnx_path(), {"INFERENCE_NUM_THREADS": 1})
    assert models._model(1).get_property("ENABLE_CPU_PINNING") is False


def test_a_batch_is_cut_into_the_sizes_that_are_compiled(artifact_t):
    images = random_images(6, 224, 224)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    models = CompiledModels(artifact_t.onnx_path(), settings, sizes=(4, 1))
    with OpenVINORunner(artifact_t.onnx_path()) as runner:
        expected = runner.infer({"images": images})["logits"]
    np.testing.assert_allclose(models.infer({"images": images})["logits"], expected, atol=1e-4)
    assert set(models._models) == {4, 1}
