"""Segmentation from the checkpoint to the exported file."""

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from dfvt_deploy.errors import BadInput, CheckpointError
from dfvt_deploy.exporters.export import export
from dfvt_deploy.exporters.recipe import random_images
from dfvt_deploy.models import build_model, inspect_checkpoint, load_checkpoint
from dfvt_deploy.models.build import fill_untrained
from dfvt_deploy.models.checkpoint import load_backbone_checkpoint
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.tasks.images import normalise

from .fixtures import dense_state_dict

CANVASES = [(1, 32, 32), (2, 32, 160), (1, 160, 32), (2, 96, 64), (1, 224, 416), (2, 128, 128)]


@pytest.fixture(scope="module")
def model(segmentation_checkpoint_t):
    model = build_model("segmentation", "t")
    info = load_checkpoint(model, segmentation_checkpoint_t)
    assert (info.task, info.variant, info.num_classes) == ("segmentation", "t", 150)
    return model


@pytest.fixture(scope="module")
def runner(segmentation_artifact_t):
    with OnnxRuntimeRunner(segmentation_artifact_t.onnx_path()) as running:
        yield running


@pytest.mark.parametrize(("batch", "height", "width"), CANVASES)
def test_every_canvas_gives_pytorchs_class_map_and_logits(model, runner, batch, height, width):
    images = random_images(batch, height, width)
    sizes = np.array([[height - i, width - 3 * i] for i in range(batch)])
    found = runner.infer({"images": images, "image_sizes": sizes})
    with torch.no_grad():
        logits = model(torch.from_numpy(normalise(images)), torch.from_numpy(sizes))
        expected = F.interpolate(logits, (height, width), mode="bilinear").argmax(1).numpy()
    assert np.abs(found["logits"] - logits.numpy()).max() < 1e-4
    assert np.mean(found["class_map"] == expected) >= 0.999
    assert found["class_map"].dtype == np.uint8


def test_padding_counts_as_zero_whatever_it_holds(runner):
    images = random_images(1, 64, 96)
    sizes = np.array([[50, 70]])
    one = runner.infer({"images": images, "image_sizes": sizes})
    images[:, 50:], images[:, :, 70:] = 255, 7
    other = runner.infer({"images": images, "image_sizes": sizes})
    assert np.array_equal(one["logits"], other["logits"])


def test_manifest_has_the_dynamic_shapes(segmentation_artifact_t):
    manifest = segmentation_artifact_t.manifest
    assert [(s.name, s.dtype, s.shape) for s in manifest.inputs] == [
        ("images", "uint8", ("batch", "height", "width", 3)),
        ("image_sizes", "int64", ("batch", 2)),
    ]
    class_map, logits = manifest.outputs
    assert (class_map.dtype, class_map.shape) == ("uint8", ("batch", "height", "width"))
    assert (logits.dtype, logits.shape[:2]) == ("float32", ("batch", 150))
    assert manifest.labels[0] == "wall"
    assert manifest.checks[0].name == "onnxruntime against PyTorch, 4 images, pixels"
    assert manifest.macs == pytest.approx(850.5e9, rel=0.01)


def test_static_export_is_fixed_and_says_so(segmentation_checkpoint_t, tmp_path):
    artifact = export(
        "t",
        "segmentation",
        checkpoint=segmentation_checkpoint_t,
        output=tmp_path,
        static=(64, 96),
        input_kind="float32",
    )
    manifest = artifact.manifest
    assert manifest.inputs[0].shape == ("batch", 3, 64, 96)
    assert manifest.preprocessing.canvas == (64, 96)
    assert "--static 64x96" in manifest.command
    assert all(check.passed for check in manifest.checks)
    with pytest.raises(BadInput, match=r"--static 100x64 is not in multiples of 32.* 96x64"):
        export("t", "segmentation", output=tmp_path, static=(100, 64))
    with pytest.raises(BadInput, match="--static 64x64 is not for classification"):
        export("t", output=tmp_path, static=(64, 64))


def test_many_classes_need_wider_ids(tmp_path):
    artifact = export(
        "t", "segmentation", output=tmp_path, num_classes=300, static=(32, 32), opset=17
    )
    (class_map,) = artifact.manifest.outputs
    assert class_map.dtype == "int32"
    assert onnx.load(artifact.onnx_path()).opset_import[0].version == 17
    assert artifact.manifest.labels[299] == "class_299"


def test_other_class_counts_come_from_the_checkpoint(tmp_path):
    weights = dense_state_dict("seg_t")
    for key in ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias"):
        weights[key] = weights[key][:19]
    weights = {f"module.{key}": value for key, value in weights.items()}
    torch.save({"state_dict": weights}, tmp_path / "cityscapes.pth")
    assert inspect_checkpoint(tmp_path / "cityscapes.pth").num_classes == 19
    with pytest.raises(CheckpointError, match="with 19 classes"):
        load_checkpoint(build_model("segmentation", "t"), tmp_path / "cityscapes.pth")
    load_checkpoint(build_model("segmentation", "t", 19), tmp_path / "cityscapes.pth")


def test_missing_head_weights_are_named(tmp_path):
    weights = dense_state_dict("seg_t")
    del weights["decode_head.bottleneck.conv.weight"]
    torch.save({"state_dict": weights}, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"decode_head.bottleneck.conv.weight +missing"):
        load_checkpoint(build_model("segmentation", "t"), tmp_path / "cut.pth")


def test_backbone_comes_from_a_classification_checkpoint(checkpoint_t, tmp_path, capsys):
    model = build_model("segmentation", "t")
    fill_untrained(model)
    head = model.decode_head.conv_seg.weight.clone()
    load_backbone_checkpoint(model, checkpoint_t)
    reference = build_model("classification", "t")
    load_checkpoint(reference, checkpoint_t)
    key = "layers.2.blocks.1.attn.qkv.weight"
    assert torch.equal(model.backbone.state_dict()[key], reference.state_dict()[key])
    assert torch.equal(model.decode_head.conv_seg.weight, head)
    with pytest.raises(CheckpointError, match="comes from a DFvT-S classification checkpoint"):
        load_backbone_checkpoint(build_model("segmentation", "s"), checkpoint_t)
    artifact = export(
        "t", "segmentation", backbone_checkpoint=checkpoint_t, output=tmp_path, static=(32, 32)
    )
    assert artifact.manifest.checkpoint.source == "backbone"
    assert not artifact.manifest.trained
    assert "head is untrained" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="or --backbone-checkpoint for a segmentation model"):
        export("t", "segmentation", checkpoint=checkpoint_t, output=tmp_path)
