"""`convert`: FP16 and INT8 files, what stays in FP32, and what is refused."""

import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from dfvt_deploy.artifact import file_record, open_artifact, update_manifest
from dfvt_deploy.compare import Comparison, comparison_of
from dfvt_deploy.compare.agreement import checks
from dfvt_deploy.cores import int8_saturates
from dfvt_deploy.errors import ArtifactError, BadInput, MissingDependency, StageFailed
from dfvt_deploy.precision.calibration import calibration_images, value_ranges
from dfvt_deploy.precision.convert import convert
from dfvt_deploy.precision.fp16 import cut_loops, emulate_fp16
from dfvt_deploy.precision.fp16_conversion import Fp16Conversion
from dfvt_deploy.precision.graph_tensors import graph_tensors
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.openvino import OpenVINORunner
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.types import Precision, Task

from .fixtures import copy_of, encoded, json_document, photograph

#: What makes dense conversions quick.
SMALL = {"images": 2, "max_side": 128}


def replace_model(directory, change) -> None:
    """Change the ONNX file of an artifact and make its manifest say so."""
    model = onnx.load(directory / "model.onnx")
    change(model)
    onnx.save(model, directory / "model.onnx")
    record = file_record(directory / "model.onnx", Precision.FP32, "dfvt-deploy export")
    update_manifest(directory, lambda old: old.model_copy(update={"files": {"model.onnx": record}}))


def scale(model, name, factor) -> None:
    (weight,) = (w for w in model.graph.initializer if w.name == name)
    values = numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(numpy_helper.from_array(values, name))


def overflow_before_the_head(model) -> None:
    """What the last normalisation gives grows beyond FP16, and the head takes it back."""
    scale(model, "model.norm.weight", 1e5)
    scale(model, "model.norm.bias", 1e5)
    scale(model, "model.head.weight", 1e-5)


def insert_before_the_head(model, producers) -> None:
    """Nodes, each made from what the head takes; it then takes what the last one gives."""
    (head,) = (node for node in model.graph.node if node.name == "/model/head/Gemm")
    nodes = [make(head.input[0]) for make in producers]
    head.input[0] = nodes[-1].output[0]
    at = list(model.graph.node).index(head)
    for node in reversed(nodes):
        model.graph.node.insert(at, node)


@pytest.fixture
def planted(artifact_t, tmp_path):
    directory = copy_of(artifact_t, tmp_path)
    replace_model(directory, overflow_before_the_head)
    return directory


def photographs(folder, count):
    folder.mkdir()
    for i in range(count):
        data = encoded(photograph(240 + i % 7, 232, seed=i), quality=90)
        (folder / f"{i:03}.jpg").write_bytes(data)
    return folder


def test_fp16_keeps_types_and_agrees(fp16_t, tmp_path):
    model = onnx.load(fp16_t.onnx_path(Precision.FP16))
    source = onnx.load(fp16_t.onnx_path())
    for old, new in (
        (source.graph.input, model.graph.input),
        (source.graph.output, model.graph.output),
    ):
        assert [(v.name, v.type) for v in old] == [(v.name, v.type) for v in new]
    types = graph_tensors(model).types
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            assert types[node.output[0]] == TensorProto.FLOAT16, node.name
        if node.op_type == "LayerNormalization":
            assert types[node.output[0]] == TensorProto.FLOAT, node.name
    assert model.graph.node[0].op_type == "Cast"  # as TensorRT wants it on uint8
    size = {p: fp16_t.onnx_path(p).stat().st_size for p in (Precision.FP16, Precision.FP32)}
    assert size[Precision.FP16] < 0.55 * size[Precision.FP32]
    folder = photographs(tmp_path / "photos", 64)
    images = calibration_images(fp16_t.manifest, folder, images=64, max_side=512).compared()
    assert len(images) == 64
    with OnnxRuntimeRunner(fp16_t.onnx_path()) as runner:
        comparison = Comparison(Task.CLASSIFICATION, images, runner)
    with OnnxRuntimeRunner(fp16_t.onnx_path(Precision.FP16)) as runner:
        agreement = comparison.agreement(runner)
    assert agreement.figures["top1"] == 1
    assert 0 < agreement.tensors["logits"].max_abs < 0.02


def test_the_record_counts_every_node(fp16_t):
    manifest = open_artifact(fp16_t.directory).manifest
    record = manifest.conversions["model.fp16.onnx"]
    model = onnx.load(fp16_t.onnx_path(Precision.FP16))
    assert sum(sum(row.values()) for row in record.operators.values()) == len(model.graph.node)
    assert record.operators["Gemm"] == {"fp16": 21}
    assert record.operators["LayerNormalization"] == {"fp32": 24}
    assert record.reasons["normalisation: means of squares"] == {"LayerNormalization": 24}
    assert record.calibration.source == "samples"
    assert all(check.passed for check in record.checks)
    assert manifest.files["model.fp16.onnx"].source_sha256 == manifest.files["model.onnx"].sha256


def test_a_file_of_another_source_is_stale(fp16_t, tmp_path):
    directory = tmp_path / fp16_t.manifest.name
    shutil.copytree(fp16_t.directory, directory)
    manifest = fp16_t.manifest
    stale = manifest.files["model.fp16.onnx"].model_copy(update={"source_sha256": "0" * 64})
    update_manifest(
        directory,
        lambda old: old.model_copy(update={"files": {**old.files, "model.fp16.onnx": stale}}),
    )
    with pytest.raises(ArtifactError, match=r"dfvt-deploy convert .* --precision fp16"):
        open_artifact(directory).onnx_path(Precision.FP16)


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_dense_models_to_fp16(task, tmp_path, request):
    artifact = request.getfixturevalue(f"{task}_artifact_t")
    directory = copy_of(artifact, tmp_path)
    # A hundred detections of two small canvases are too few for the limit of six in a hundred.
    made = convert(directory, "fp16", min_agreement=0.9, **SMALL)
    counts = made.record.operators
    for operator in ("Conv", "MatMul", "Gemm"):
        assert set(counts[operator]) == {"fp16"}, operator
    model = onnx.load(made.file)
    graph = graph_tensors(model)
    if task == "segmentation":
        assert graph.producers["class_map"].op_type == "Cast"  # as TensorRT wants it to uint8
        assert set(counts["Resize"]) == {"fp16", "fp32"}
        return
    for node in graph.nodes:
        if node.op_type in ("RoiAlign", "TopK", "Loop", "Exp"):
            floats = {graph.types[n] for n in node.output if graph.is_float(n)}
            assert floats <= {TensorProto.FLOAT}, node.name
    source = graph_tensors(onnx.load(directory / "model.onnx"))
    loops = [node.name for node in source.nodes if node.op_type == "Loop"]
    assert [n.name for n in graph.nodes if n.op_type == "Loop"] == loops
    fp16 = {n for n in graph.producers if graph.types.get(n) == TensorProto.FLOAT16}
    boxes = [node for node in graph.nodes if "boxes" in node.output]
    assert not fp16 & set(boxes[0].input)


def test_loops_survive_being_cut_out(detection_artifact_t):
    model = onnx.load(detection_artifact_t.onnx_path())
    cut, _, join = cut_loops(model)
    onnx.checker.check_model(cut, full_check=True)
    assert "Loop" not in {node.op_type for node in cut.graph.node}
    join(cut)
    onnx.checker.check_model(cut, full_check=True)
    images = calibration_images(detection_artifact_t.manifest, None, images=1, max_side=96)
    (feed,) = images
    found = [
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, dict(feed))
        for m in (model, cut)
    ]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def two_products(up: float, down: float) -> onnx.ModelProto:
    """x -> x·up -> ·down, each a MatMul named after its factor."""
    weights = [
        numpy_helper.from_array(np.eye(4, dtype=np.float32) * np.float32(factor), name)
        for name, factor in (("first", 1.0), ("up", up), ("down", down))
    ]
    names = ["x", "a", "b", "y"]
    nodes = [
        helper.make_node("MatMul", [names[i], weight.name], [names[i + 1]], name=weight.name)
        for i, weight in enumerate(weights)
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


def test_emulation_rounds_and_overflows_where_onnxruntime_does_not():
    x = np.full((1, 4), 3.0, np.float32)
    model = two_products(30000, 1 / 30000)  # 90,000 in between
    everything = ["first", "up", "down"]
    assert not np.isfinite(run(emulate_fp16(model, everything), x)).any()
    kept = emulate_fp16(model, ["first"])
    np.testing.assert_allclose(run(kept, x), x, rtol=1e-6)
    thirds = np.full((1, 4), 1 / 3, np.float32)
    rounded = run(emulate_fp16(two_products(1, 1), everything), thirds)
    np.testing.assert_array_equal(rounded, thirds.astype(np.float16).astype(np.float32))


def test_ranges_are_those_of_the_values():
    x = np.array([[-3, 0, 1, 2]], np.float32)
    ranges = value_ranges(two_products(30000, 1 / 30000), [{"x": x}, {"x": -x / 2}])
    assert ranges == pytest.approx({"a": 3, "b": 90000, "y": 3}, rel=1e-6)
    bad = value_ranges(two_products(1, 1), [{"x": np.array([[np.nan, 1, 1, 1]], np.float32)}])
    assert np.isinf(bad["a"])


def test_an_overflow_fails_and_names_the_node(planted):
    work = Fp16Conversion(onnx.load(planted / "model.onnx"), planted, np.inf)
    images = calibration_images(open_artifact(planted).manifest, None, images=2, max_side=512)
    work.calibrate(images)
    kept = work.kept((), ())
    error = str(work.overflow(kept))
    assert re.search(r"/model/ReduceMean \(ReduceMean\) takes from .*4\.\d+e\+05", error)
    error = str(work.overflow_inside(work.trial(kept), kept, images))
    assert re.search(r"node /model/norm/LayerNormalization .* gives infinity", error)


def test_what_vanishes_in_fp16_fails_and_names_the_node(artifact_t, tmp_path):
    def divide_by_a_square(model):
        """What reaches the head is multiplied by 1e-5 twice and divided by 1e-10: 0 in FP16."""
        tiny = [numpy_helper.from_array(np.float32(1e-5), f"tiny{i}") for i in range(2)]
        model.graph.initializer.extend(tiny)
        insert_before_the_head(
            model,
            [
                lambda x: helper.make_node("Mul", [x, "tiny0"], ["s0"], name="once"),
                lambda _: helper.make_node("Mul", ["s0", "tiny1"], ["s1"], name="twice"),
                lambda _: helper.make_node("Div", ["s1", "s1"], ["one"], name="planted"),
                lambda x: helper.make_node("Mul", [x, "one"], ["features"], name="features"),
            ],
        )

    directory = copy_of(artifact_t, tmp_path)
    replace_model(directory, divide_by_a_square)
    with pytest.raises(StageFailed, match=r"node planted \(Div\) gives infinity or NaN"):
        convert(directory, "fp16", images=2)


def test_large_values_stay_in_fp32_by_themselves(planted):
    made = convert(planted, "fp16", images=2)
    assert made.kept["/model/ReduceMean"] == "values beyond 512"
    assert made.record.reasons["values beyond 512"] == {"ReduceMean": 1, "Gemm": 1}


def test_keep_fp32_takes_nodes_and_operators(artifact_t, tmp_path):
    work = Fp16Conversion(onnx.load(artifact_t.onnx_path()), tmp_path, np.inf)
    kept = work.kept(["/model/head/Gemm", "Softmax"])
    assert "/model/head/Gemm" in kept
    converted = set(work.converted(kept))
    nodes = work.graph.nodes
    assert {n.op_type for n in nodes if n.name in converted} >= {"Gemm", "Conv"}
    assert not any(n.op_type == "Softmax" and n.name in converted for n in nodes)
    with pytest.raises(BadInput, match="did you mean Softmax"):
        work.kept(["Softmaxx"])


def test_a_limit_that_does_not_hold_leaves_the_previous_file(fp16_t, tmp_path):
    directory = tmp_path / fp16_t.manifest.name
    shutil.copytree(fp16_t.directory, directory)
    before = (directory / "model.fp16.onnx").read_bytes()

    def shift_and_back(model):
        """400 is added to what reaches the head and taken off again: steps of 0.25 in FP16."""
        model.graph.initializer.append(numpy_helper.from_array(np.float32(400), "shift"))
        insert_before_the_head(
            model,
            [
                lambda x: helper.make_node("Add", [x, "shift"], ["up"], name="up"),
                lambda _: helper.make_node("Sub", ["up", "shift"], ["back"], name="back"),
            ],
        )

    replace_model(directory, shift_and_back)
    with pytest.raises(StageFailed, match=r"each tensor rounded.* logits, max relative .*≤ 0.01"):
        convert(directory, "fp16", images=4)
    assert (directory / "model.fp16.onnx").read_bytes() == before
    assert [p.name for p in directory.iterdir() if p.name.startswith(".")] == []


def test_limits_are_checked():
    a = np.array([[0.0, 3.0, 1.0]], np.float32)

    class Fixed:
        def __init__(self, logits):
            self.logits = logits

        def infer(self, feed):
            return {"logits": self.logits}

    limits = comparison_of(Task.CLASSIFICATION).breakage_limits(Precision.FP16)
    comparison = Comparison(Task.CLASSIFICATION, [{}], Fixed(a))
    for logits, broken in (
        (a, []),
        (a + np.float32(0.1), ["logits, max relative"]),
        (a[:, ::-1], ["logits, max relative"]),
        (-a, ["logits, max relative", "top1"]),
        (np.where(a == 0, np.nan, a), ["non-finite values"]),
        (a[:, :2], ["shapes that differ"]),
    ):
        found = checks(comparison.agreement(Fixed(logits)), limits)
        assert [check.name for check in found if not check.passed] == broken, logits


def test_int8_for_the_cpu(int8_t):
    record = int8_t.manifest.conversions["model.int8.onnx"]
    assert record.operators["Gemm"]["int8"] == 21
    assert record.operators["Conv"] == {"fp32": 28}
    assert record.operators["MatMul"] == {"int8": 3, "fp32": 25}  # gates, products of activations
    assert record.calibration.method == "entropy"
    model = onnx.load(int8_t.onnx_path(Precision.INT8))
    weights = {w.name: w for w in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type != "Gemm":
            continue
        activation, weight = (producers[name] for name in node.input[:2])
        assert weights[activation.input[2]].data_type == TensorProto.UINT8
        assert weights[weight.input[0]].data_type == TensorProto.INT8
        scales = numpy_helper.to_array(weights[weight.input[1]])
        transposed = next((a.i for a in node.attribute if a.name == "transB"), 0)
        assert len(scales) == weights[weight.input[0]].dims[1 - transposed]  # per channel
        assert not numpy_helper.to_array(weights[weight.input[2]]).any()
    sizes = [int8_t.onnx_path(p).stat().st_size for p in (Precision.INT8, Precision.FP32)]
    assert sizes[0] < 0.5 * sizes[1]


def int8_weights(model) -> list:
    """The weights of the quantised layers, as stored."""
    tensors = {w.name: w for w in model.graph.initializer}
    matrices = [tensors[n.input[0]] for n in model.graph.node if n.input and n.input[0] in tensors]
    return [numpy_helper.to_array(t) for t in matrices if t.data_type == TensorProto.INT8]


def relative_error(found, expected) -> float:
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_weights_of_seven_bits_give_the_same_answers_on_every_cpu(
    target, artifact_t, tmp_path, monkeypatch, capsys
):
    directory = copy_of(artifact_t, tmp_path)
    quick = {"target": target, "images": 3, "min_agreement": 0.01}
    monkeypatch.setattr("dfvt_deploy.precision.options.int8_saturates", lambda: True)
    made = convert(directory, "int8", **quick)
    assert (made.record.weight_bits, "--weight-bits 7" in made.record.command) == (7, True)
    weights = int8_weights(onnx.load(made.file))
    assert len(weights) > 20
    assert max(np.abs(w.astype(int)).max() for w in weights) <= 64
    exact = onnxruntime.SessionOptions()
    exact.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    feed = {"images": np.stack([np.asarray(photograph(224, 224, seed)) for seed in range(3)])}
    expected = onnxruntime.InferenceSession(made.file, exact).run(None, feed)[0]
    for runner in (OnnxRuntimeRunner(made.file), OpenVINORunner(made.file, Precision.INT8)):
        with runner:
            assert relative_error(runner.infer(feed)["logits"], expected) < 0.02

    monkeypatch.setattr("dfvt_deploy.precision.options.int8_saturates", lambda: False)
    made = convert(directory, "int8", **quick)
    assert (made.record.weight_bits, "--weight-bits 8" in made.record.command) == (8, True)
    assert max(np.abs(w.astype(int)).max() for w in int8_weights(onnx.load(made.file))) > 100

    backend = {"cpu": "onnxruntime", "openvino": "openvino"}[target]
    for saturates in (True, False):
        monkeypatch.setattr("dfvt_deploy.serving.repository.int8_saturates", lambda s=saturates: s)
        capsys.readouterr()
        populate(directory, repository=tmp_path / "r", backend=backend, precision="int8")
        assert ("convert again with --weight-bits 7" in capsys.readouterr().err) is saturates


@pytest.mark.parametrize(
    ("flags", "saturates"),
    [("sse4_1 avx2", True), ("avx2 avx_vnni", False), ("avx512f avx512_vnni", False), ("", False)],
)
def test_which_cpus_saturate(flags, saturates, monkeypatch):
    monkeypatch.setattr("dfvt_deploy.cores.processor_field", lambda name: flags)
    assert int8_saturates() is saturates


@pytest.mark.parametrize("method", ["percentile", "minmax"])
def test_int8_around_zero_for_tensorrt(method, artifact_t, tmp_path):
    directory = copy_of(artifact_t, tmp_path)
    made = convert(directory, "int8", target="tensorrt", method=method, images=4)
    model = onnx.load(made.file)
    weights = {w.name: w for w in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero = weights[node.input[2]]
        assert zero.data_type == TensorProto.INT8
        assert not numpy_helper.to_array(zero).any()
    assert made.record.target == "tensorrt"
    assert made.file.name == "model.int8.tensorrt.onnx"
    import tensorrt_rtx_bindings as trt

    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(made.file)), parser.get_error(0).desc()
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *[(1, 224, 224, 3)] * 3)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


def test_hundreds_of_images_calibrate_one_by_one(artifact_t, tmp_path):
    folder = photographs(tmp_path / "photos", 300)
    images = calibration_images(artifact_t.manifest, folder, images=256, max_side=512)
    assert len(images) == 256
    files = [view.file.name for view in images.views]
    assert (files[0], files[-1], len(set(files))) == ("000.jpg", "298.jpg", 256)
    feeds = iter(images)
    assert next(feeds)["images"].shape == (1, 224, 224, 3)
    samples = calibration_images(artifact_t.manifest, None, images=256, max_side=512)
    assert images.digest() != samples.digest()


def test_dense_feeds_are_valid_and_small(segmentation_artifact_t, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (900, 300), "red").save(folder / "wide.png")
    images = calibration_images(segmentation_artifact_t.manifest, folder, images=256, max_side=256)
    (feed,) = images
    assert feed["images"].shape == (1, 96, 256, 3)
    assert feed["image_sizes"].tolist() == [[85, 256]]
    assert set(feed) == {"images", "image_sizes"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp32"}, "fp32 is what export writes"),
        ({"precision": "fp16", "weight_bits": 7}, "--weight-bits 7 is for --precision int8"),
        ({"precision": "int8", "weight_bits": 9}, r"--weight-bits 9 is outside 7\.\.8"),
        (
            {"precision": "int8", "target": "tensorrt", "weight_bits": 7},
            "--weight-bits 7 is for CPUs, not for --target tensorrt",
        ),
        ({"precision": "fp16", "images": 0}, "--images 0 is below 1"),
        ({"precision": "fp16", "max_side": 100}, "--max-side 100 is not a positive multiple"),
        ({"precision": "fp16", "min_agreement": 7}, r"--min-agreement 7 is outside 0\.\.1"),
        ({"precision": "int8", "keep_fp32": ["nobody"]}, "'nobody' is neither a node nor"),
    ],
)
def test_bad_input(artifact_t, options, message):
    with pytest.raises(BadInput, match=message):
        convert(artifact_t.directory, **options)


def test_folders_without_images_and_damaged_ones(artifact_t, tmp_path):
    with pytest.raises(BadInput, match="holds no image"):
        convert(artifact_t.directory, "fp16", calibration=tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"a\.jpg: image is not one of"):
        convert(artifact_t.directory, "fp16", calibration=tmp_path)


def test_without_modelopt(artifact_t, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelopt.onnx.autocast", None)
    with pytest.raises(MissingDependency, match=r"pip install 'dfvt-deploy\[convert\]'"):
        convert(copy_of(artifact_t, tmp_path), "fp16", images=1)


def test_the_command_goes_on_past_a_failure_and_is_quiet(artifact_t, tmp_path):
    exports = tmp_path / "exports"
    exports.mkdir()
    copy_of(artifact_t, exports)
    damaged = exports / "damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{")
    arguments = ["convert", "--precision", "fp16", "--images", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "dfvt_deploy", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert "1 of 2 failed" in done.stderr
    (document,) = json_document("convert", done.stdout)
    assert document["file"] == "exports/dfvt_t_classification/model.fp16.onnx"
    assert len(done.stderr.splitlines()) == 2, "how many failed, and each with its reason"
