"""Detection from the checkpoint to the exported file."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from dfvt_deploy.compare import Comparison, comparison_of
from dfvt_deploy.compare.agreement import checks
from dfvt_deploy.compare.detection import match_detections
from dfvt_deploy.errors import BadInput, CheckpointError
from dfvt_deploy.exporters import detection as recipe
from dfvt_deploy.exporters.export import export
from dfvt_deploy.exporters.options import ExportOptions
from dfvt_deploy.exporters.recipe import onnx_from_graph, random_images, simplify
from dfvt_deploy.models import build_model, inspect_checkpoint, load_checkpoint
from dfvt_deploy.models.backbone import BackboneConfig
from dfvt_deploy.models.build import fill_untrained
from dfvt_deploy.models.checkpoint import load_backbone_checkpoint
from dfvt_deploy.models.detection import BOX_BINS, Detections, MaskRCNN, PaddedDetections
from dfvt_deploy.models.roi_align import pyramid_roi_align
from dfvt_deploy.models.rpn import STRIDES
from dfvt_deploy.onnx_model import tensor_specs
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.pytorch import PytorchRunner
from dfvt_deploy.tasks.images import normalise
from dfvt_deploy.types import InputKind, Nms, Precision, Task

from .fixtures import dense_state_dict

CANVASES = [(1, 32, 32), (2, 32, 160), (1, 160, 32), (2, 96, 64), (1, 224, 416)]

TINY = BackboneConfig(16, (1, 1, 1, 1), (1, 2, 4, 8), 1)

CLASS_BIAS, RPN_BIAS = "roi_head.bbox_head.fc_cls.bias", "rpn_head.rpn_cls.bias"


@pytest.fixture(scope="module")
def model(detection_checkpoint_t):
    model = build_model("detection", "t")
    info = load_checkpoint(model, detection_checkpoint_t)
    assert (info.task, info.variant, info.num_classes) == ("detection", "t", 80)
    return model


@pytest.fixture(scope="module")
def runner(detection_artifact_t):
    with OnnxRuntimeRunner(detection_artifact_t.onnx_path()) as running:
        yield running


def request(batch, height, width):
    images = random_images(batch, height, width)
    sizes = np.array([[height - 2 * i, width - 3 * i] for i in range(batch)])
    return {"images": images, "image_sizes": sizes}


def pytorch(model, feed):
    with torch.no_grad():
        images, sizes = torch.from_numpy(normalise(feed["images"])), feed["image_sizes"]
        return model(images, torch.from_numpy(sizes))


def unpadded(outputs, i):
    """The used rows of image i, after seeing that the others are empty."""
    parts = [outputs[name][i] for name in PaddedDetections._fields[:4]]
    (n,) = outputs["num_detections"][i]
    boxes, scores, labels, masks = (part[n:] for part in parts)
    assert len(parts[0]) == 100
    assert (labels == -1).all()
    assert not any(part.any() for part in (boxes, scores, masks))
    assert (np.diff(parts[1][:n]) <= 0).all()
    return Detections(*(part[:n] for part in parts))


def assert_same(expected, found):
    result = match_detections(expected, found, min_iou=0.98)
    same = result.pairs[result.score_gaps <= 1e-4]
    assert len(same) >= 0.99 * len(expected.scores)
    assert (same[:, 0] < 20).sum() == min(20, len(expected.scores))
    assert len(result.extra) <= 1
    rows, others = result.pairs.T
    gaps = np.abs(np.asarray(expected.masks)[rows] - np.asarray(found.masks)[others])
    assert gaps.max(initial=0) < 1e-3


@pytest.mark.parametrize(("batch", "height", "width"), CANVASES)
def test_every_canvas_gives_pytorchs_detections(model, runner, batch, height, width):
    feed = request(batch, height, width)
    found = runner.infer(feed)
    for i, expected in enumerate(pytorch(model, feed)):
        assert_same(expected, unpadded(found, i))
        valid_height, valid_width = feed["image_sizes"][i]
        boxes = found["boxes"][i]
        assert (boxes >= 0).all()
        assert (boxes <= [valid_width, valid_height] * 2).all()


@pytest.mark.parametrize("batch", [2, 4])
def test_batch_gives_each_image_what_it_gives_alone(runner, batch):
    feed = request(batch, 96, 128)
    together = runner.infer(feed)
    for i in range(batch):
        alone = runner.infer({name: value[i : i + 1] for name, value in feed.items()})
        assert_same(unpadded(alone, 0), unpadded(together, i))


def test_padding_counts_as_zero_whatever_it_holds(runner):
    feed = {"images": random_images(1, 64, 96), "image_sizes": np.array([[50, 70]])}
    one = runner.infer(feed)
    feed["images"][:, 50:], feed["images"][:, :, 70:] = 255, 7
    other = runner.infer(feed)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def with_bias(model, artifact, directory, name, change):
    """Model and exported file with another bias."""
    changed = build_model("detection", "t")
    changed.load_state_dict(model.state_dict())
    with torch.no_grad():
        change(changed.get_parameter(name).detach().numpy())
    exported = onnx.load(artifact.onnx_path())
    (initializer,) = (t for t in exported.graph.initializer if t.name.endswith(name))
    values = onnx.numpy_helper.to_array(initializer).copy()
    change(values)
    initializer.CopyFrom(onnx.numpy_helper.from_array(values, initializer.name))
    onnx.save(exported, directory / "changed.onnx")
    return changed, directory / "changed.onnx"


def bias_for(model, feed, wanted):
    """A background bias at which PyTorch finds `wanted` detections."""
    sizes, bias = torch.from_numpy(feed["image_sizes"]), model.get_parameter(CLASS_BIAS)[-1].item()
    low, high = 0.0, 60.0
    with torch.no_grad():
        pyramid = model.neck(model.backbone(torch.from_numpy(normalise(feed["images"]))))
        proposals = model.rpn_head(pyramid, sizes)
        aligned = pyramid_roi_align(pyramid[:4], STRIDES[:4], proposals, BOX_BINS)
        logits, deltas = model.roi_head.bbox_head(aligned)
        for _ in range(40):
            middle = (low + high) / 2
            moved = logits.clone()
            moved[:, -1] += middle - bias
            found = int((model.roi_head.select(proposals, moved, deltas, sizes)[1] > 0).sum())
            if found == wanted:
                return middle
            low, high = (middle, high) if found > wanted else (low, middle)
    raise AssertionError(f"no bias gives {wanted} detections")


@pytest.mark.parametrize("wanted", [0, 1, 100])
def test_none_one_and_more_than_fit(model, detection_artifact_t, tmp_path, wanted):
    feed = request(1, 64, 96)
    bias = {0: 60.0, 100: 0.0}.get(wanted) if wanted != 1 else bias_for(model, feed, 1)

    def set_background(values):  # more of it, fewer detections
        values[-1] = bias

    changed, file = with_bias(model, detection_artifact_t, tmp_path, CLASS_BIAS, set_background)
    with OnnxRuntimeRunner(file) as runner:
        found = runner.infer(feed)
    assert found["num_detections"].tolist() == [[wanted]]
    (expected,) = pytorch(changed, feed)
    assert_same(expected, unpadded(found, 0))


def test_proposals_that_score_next_to_nothing_keep_their_order(
    model, detection_artifact_t, tmp_path
):
    """A detector that has learnt scores most of a foreign image below 1e-8, where the sigmoid of
    onnxruntime is 0, and NMS depends on the order."""

    def lower(values):
        values -= 25

    feed = request(1, 64, 96)
    changed, file = with_bias(model, detection_artifact_t, tmp_path, RPN_BIAS, lower)
    with OnnxRuntimeRunner(file) as runner:
        found = runner.infer(feed)
    (expected,) = pytorch(changed, feed)
    assert len(expected.scores) > 0
    assert_same(expected, unpadded(found, 0))


def test_manifest_and_graph(detection_artifact_t):
    manifest = detection_artifact_t.manifest
    assert [(s.name, s.dtype, s.shape) for s in manifest.inputs] == [
        ("images", "uint8", ("batch", "height", "width", 3)),
        ("image_sizes", "int64", ("batch", 2)),
    ]
    assert [(s.name, s.dtype, s.shape) for s in manifest.outputs] == [
        ("boxes", "float32", ("batch", 100, 4)),
        ("scores", "float32", ("batch", 100)),
        ("labels", "int64", ("batch", 100)),
        ("masks", "float32", ("batch", 100, 28, 28)),
        ("num_detections", "int64", ("batch", 1)),
    ]
    assert manifest.labels[0] == "person"
    assert manifest.macs == pytest.approx(177e9, rel=0.01)
    runtimes = "onnxruntime", "OpenVINO"
    assert [check.name.split(", ", 2)[::2] for check in manifest.checks] == [
        [f"{runtime} against PyTorch", figure]
        for runtime in runtimes
        for figure in (
            "matched",
            "new detections",
            "mask_iou",
            "scores, mean absolute",
            "box_iou",
            "non-finite values",
            "shapes that differ",
        )
    ]
    graph = onnx.load(detection_artifact_t.onnx_path()).graph
    assert {node.domain for node in graph.node} == {""}
    operators = manifest.graph.operators
    assert not {"NonZero", "NonMaxSuppression", "If"} & operators.keys()
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "TopK":
            assert constants[node.input[1]].item() <= 3840
        if node.op_type == "RoiAlign":
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert attributes["sampling_ratio"] == 0
            assert attributes["coordinate_transformation_mode"] == b"half_pixel"


def test_soft_nms(tmp_path):
    model = MaskRCNN(TINY, 6, Nms.SOFT).eval()
    fill_untrained(model)
    with torch.no_grad():
        model.get_parameter(CLASS_BIAS)[-1] = 2
    options = ExportOptions(variant="t", task="detection")
    exported = simplify(onnx_from_graph(recipe.RECIPE.graph(model, options)))
    onnx.save(exported, tmp_path / "model.onnx")
    specs = tensor_specs(exported.graph.output)
    manifest = SimpleNamespace(task=Task.DETECTION, input_kind=InputKind.UINT8, outputs=specs)
    feeds = recipe.RECIPE.checked_feeds(options)
    comparison = Comparison(Task.DETECTION, feeds, PytorchRunner(manifest, model))
    with OnnxRuntimeRunner(tmp_path / "model.onnx") as runner:
        agreement = comparison.agreement(runner)
    limits = comparison_of(Task.DETECTION).limits[Precision.FP32]
    assert all(check.passed for check in checks(agreement, limits)), agreement
    assert agreement.shares["matched"][1] > 50


def test_static_export_is_fixed_and_says_so(detection_checkpoint_t, tmp_path):
    artifact = export(
        "t",
        "detection",
        checkpoint=detection_checkpoint_t,
        output=tmp_path,
        static=(64, 96),
        input_kind="float32",
        nms="soft",
        opset=17,
    )
    manifest = artifact.manifest
    assert manifest.inputs[0].shape == ("batch", 3, 64, 96)
    assert manifest.preprocessing.canvas == (64, 96)
    assert onnx.load(artifact.onnx_path()).opset_import[0].version == 17
    assert "--static 64x96 --nms soft" in manifest.command
    assert manifest.nms is Nms.SOFT
    assert all(check.passed for check in manifest.checks)


def test_options_that_do_not_fit_are_named(detection_checkpoint_t, tmp_path):
    with pytest.raises(BadInput, match="NMS is for detection"):
        build_model("segmentation", "t", nms="hard")
    with pytest.raises(BadInput, match="NMS: hard, soft"):
        build_model("detection", "t", nms="matrix")
    with pytest.raises(BadInput, match="--logits is for segmentation"):
        export("t", "detection", output=tmp_path, logits=True)
    with pytest.raises(BadInput, match=r"opset 21 is outside 17\.\.20"):
        export("t", "detection", output=tmp_path, opset=21)


@pytest.mark.parametrize(("variant", "kind"), [("t", Nms.HARD), ("s", Nms.HARD), ("b", Nms.SOFT)])
def test_nms_is_the_published_unless_asked(variant, kind):
    with torch.device("meta"):
        assert build_model("detection", variant).nms is kind
        assert build_model("detection", variant, nms="soft").nms is Nms.SOFT


def test_other_class_counts_and_the_later_layout(tmp_path):
    """mmdetection 3 writes the same keys, among more entries beside the state dict."""
    weights = dense_state_dict("det_t")
    for key, rows in (("fc_cls", 8), ("fc_reg", 28)):
        for kind in ("weight", "bias"):
            weights[f"roi_head.bbox_head.{key}.{kind}"] = weights[
                f"roi_head.bbox_head.{key}.{kind}"
            ][:rows]
    for kind in ("weight", "bias"):
        weights[f"roi_head.mask_head.conv_logits.{kind}"] = weights[
            f"roi_head.mask_head.conv_logits.{kind}"
        ][:7]
    content = {
        "meta": {"epoch": 12, "dataset_meta": {"classes": ("a",) * 7}},
        "state_dict": weights,
        "message_hub": {"log_scalars": {}, "runtime_info": {"iter": 3}},
        "optimizer": {"state": {}, "param_groups": []},
        "param_schedulers": [{"last_step": 3}],
    }
    torch.save(content, tmp_path / "seven.pth")
    assert inspect_checkpoint(tmp_path / "seven.pth").num_classes == 7
    with pytest.raises(CheckpointError, match="with 7 classes"):
        load_checkpoint(build_model("detection", "t"), tmp_path / "seven.pth")
    model = build_model("detection", "t", 7)
    load_checkpoint(model, tmp_path / "seven.pth")
    (found,) = pytorch(model, request(1, 32, 32))
    assert found.labels.max() < 7


def test_backbone_comes_from_a_classification_checkpoint(checkpoint_t):
    model = build_model("detection", "t")
    fill_untrained(model)
    head = model.get_parameter(CLASS_BIAS).clone()
    load_backbone_checkpoint(model, checkpoint_t)
    reference = build_model("classification", "t")
    load_checkpoint(reference, checkpoint_t)
    key = "layers.2.blocks.1.attn.qkv.weight"
    assert torch.equal(model.backbone.state_dict()[key], reference.state_dict()[key])
    assert torch.equal(model.get_parameter(CLASS_BIAS), head)
