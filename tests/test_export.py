"""`export`: the graph, the checks that guard it, and the manifest."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import torch

from dfvt_deploy.artifact import exported_models, file_record, open_artifact
from dfvt_deploy.compare import classification as compared
from dfvt_deploy.compare.agreement import Limit
from dfvt_deploy.errors import ArtifactError, BadInput, CheckpointError, StageFailed
from dfvt_deploy.exporters import export as export_module
from dfvt_deploy.exporters.export import export
from dfvt_deploy.manifest import MANIFEST, Manifest, manifest_schema
from dfvt_deploy.models import build_model, load_checkpoint
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.tasks.images import normalise
from dfvt_deploy.types import Precision

from .fixtures import fixture_state_dict, save_published
from .reference import fixture_weights

SCHEMA = Path(__file__).parent.parent / "docs" / "manifest.schema.json"


@pytest.fixture(scope="module")
def model_t(checkpoint_t):
    model = build_model("classification", "t")
    load_checkpoint(model, checkpoint_t)
    return model


@pytest.fixture(scope="module")
def float_artifact(checkpoint_t, tmp_path_factory):
    return export(
        "t",
        checkpoint=checkpoint_t,
        output=tmp_path_factory.mktemp("float"),
        name="float",
        input_kind="float32",
    )


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_any_batch_is_pytorchs(float_artifact, model_t, batch):
    images = fixture_weights.image("another", batch, 224, 224)
    with OnnxRuntimeRunner(float_artifact.onnx_path()) as runner:
        found = runner.infer({"images": images})["logits"]
    with torch.no_grad():
        expected = np.concatenate([model_t(x[None]).numpy() for x in torch.from_numpy(images)])
    assert np.abs(found - expected).max() < 1e-4


def test_uint8_input_is_the_normalised_one(artifact_t, float_artifact):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    with OnnxRuntimeRunner(artifact_t.onnx_path()) as runner:
        one = runner.infer({"images": pixels})["logits"]
    with OnnxRuntimeRunner(float_artifact.onnx_path()) as runner:
        other = runner.infer({"images": normalise(pixels)})["logits"]
    assert np.abs(one - other).max() < 1e-4


def test_graph_of_t_is_small_and_says_what_the_contract_says(float_artifact):
    manifest = float_artifact.manifest
    nodes = sum(manifest.graph.operators.values())
    assert nodes <= 340
    assert nodes < sum(manifest.graph.operators_before.values())
    model = onnx.load(float_artifact.onnx_path())
    assert len(model.graph.node) == nodes
    assert [entry.version for entry in model.opset_import] == [20]
    assert not model.metadata_props
    (images,), (logits,) = manifest.inputs, manifest.outputs
    assert (images.name, images.dtype, images.shape) == (
        "images",
        "float32",
        ("batch", 3, 224, 224),
    )
    assert (logits.name, logits.dtype, logits.shape) == ("logits", "float32", ("batch", 1000))


def test_graph_of_s_is_small(tmp_path):
    artifact = export("s", output=tmp_path, input_kind="float32")
    assert sum(artifact.manifest.graph.operators.values()) <= 340
    assert not artifact.manifest.trained


@pytest.mark.parametrize("opset", [17, 21])
def test_other_opsets_are_written_as_asked(checkpoint_t, tmp_path, opset):
    artifact = export("t", checkpoint=checkpoint_t, output=tmp_path, opset=opset)
    versions = [entry.version for entry in onnx.load(artifact.onnx_path()).opset_import]
    assert versions == [opset] == [artifact.manifest.graph.opset]


def test_bad_arguments_are_named(checkpoint_t, tmp_path):
    with pytest.raises(BadInput, match=r"opset 16 is outside 17\.\.23"):
        export("t", output=tmp_path, opset=16)
    with pytest.raises(BadInput, match=r"name '\.\./x'"):
        export("t", output=tmp_path, name="../x")
    with pytest.raises(BadInput, match="may not end like a step"):
        export("t", output=tmp_path, name="mine_network")
    with pytest.raises(CheckpointError, match="use --task classification --variant t"):
        export("s", checkpoint=checkpoint_t, output=tmp_path)
    with pytest.raises(CheckpointError, match="has 1000 classes, --num-classes is 10"):
        export("t", checkpoint=checkpoint_t, output=tmp_path, num_classes=10)
    assert not any(tmp_path.iterdir())


def test_labels_come_from_the_file_and_must_fit(tmp_path):
    path = save_published(tmp_path / "three.pth", fixture_state_dict("t", num_classes=3))
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    with pytest.raises(BadInput, match="names 2 classes, the model has 3"):
        export("t", checkpoint=path, output=tmp_path, labels=tmp_path / "labels.txt")
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n")
    with pytest.raises(BadInput, match="line 2 is empty"):
        export("t", checkpoint=path, output=tmp_path, labels=tmp_path / "labels.txt")
    (tmp_path / "labels.txt").write_text("\ufeffcat\r\ndog\r\nbird\r\n", encoding="utf-8")
    artifact = export("t", checkpoint=path, output=tmp_path, labels=tmp_path / "labels.txt")
    assert artifact.manifest.labels == ("cat", "dog", "bird")
    assert artifact.manifest.num_classes == 3
    assert f"--labels {tmp_path}/labels.txt" in artifact.manifest.command


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": "no.txt"}, "labels no.txt does not exist"),
        ({"labels": "twice.txt"}, "lines 1 and 2 are both 'cat'"),
        ({"output": "twice.txt"}, "--output twice.txt: .* is not a folder"),
        ({"checkpoint": "no.pth"}, "--checkpoint no.pth does not exist"),
        ({"variant": "all"}, "one variant and one task"),
        ({"static": (64, 64)}, "--static 64x64 is not for classification"),
        ({"task": "detection", "static": (100, 64)}, "multiples of 32; the nearest is 96x64"),
        ({"task": "detection", "logits": True}, "--logits is for segmentation"),
        ({"task": "detection", "opset": 21}, r"opset 21 is outside 17\.\.20"),
    ],
)
def test_options_are_refused_before_a_model_is_built(fields, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("twice.txt").write_text("cat\ncat\n")
    monkeypatch.setattr(export_module, "model_with_weights", lambda _: 1 / 0)
    with pytest.raises(BadInput, match=message):
        export(**{"variant": "t", **fields})


def test_manifest_says_where_the_file_came_from(artifact_t, checkpoint_t):
    manifest = artifact_t.manifest
    assert manifest.checkpoint.source == "file"
    assert manifest.checkpoint.file == str(checkpoint_t)
    assert len(manifest.checkpoint.sha256) == 64
    assert manifest.macs == pytest.approx(0.306e9, rel=0.01)
    assert (
        manifest.versions["torch"] == torch.__version__.split("+")[0] or manifest.versions["torch"]
    )
    assert manifest.labels[0] == "tench"
    assert [check.name for check in manifest.checks] == [
        f"{runtime} against PyTorch, 12 images, {figure}"
        for runtime in ("onnxruntime", "OpenVINO")
        for figure in ("logits, max relative", "non-finite values", "shapes that differ")
    ]
    assert all(check.passed and check.figure < 1e-4 for check in manifest.checks)
    assert open_artifact(artifact_t.directory).manifest == manifest


def test_manifest_keeps_to_the_published_schema(artifact_t):
    schema = json.loads(SCHEMA.read_text())
    assert schema == manifest_schema(), "run: make schema"
    jsonschema.validate(json.loads((artifact_t.directory / MANIFEST).read_text()), schema)


@pytest.fixture
def copied(artifact_t, tmp_path) -> Path:
    directory = tmp_path / artifact_t.manifest.name
    directory.mkdir()
    for name in ("model.onnx", MANIFEST):
        (directory / name).write_bytes((artifact_t.directory / name).read_bytes())
    return directory


def test_a_changed_file_is_noticed(copied):
    data = bytearray((copied / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copied / "model.onnx").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"model.onnx was changed"):
        open_artifact(copied)
    (copied / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        open_artifact(copied)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: "{", "cannot be read"),
        (lambda m: json.dumps({**m, "schema_version": 99}), "has schema version 99"),
        (lambda m: json.dumps({k: v for k, v in m.items() if k != "labels"}), "labels: Field"),
        (lambda m: json.dumps({**m, "surprise": 1}), "surprise: Extra"),
        (lambda m: json.dumps({**m, "name": "../../elsewhere"}), "name: String"),
        (lambda m: json.dumps({**m, "name": "a_network"}), "may not end like a step"),
        (lambda m: json.dumps({**m, "labels": ["a"]}), "1 labels for 1000 classes"),
        (lambda m: json.dumps({**m, "files": {"../x": m["files"]["model.onnx"]}}), "files"),
    ],
)
def test_a_damaged_manifest_is_noticed(copied, change, reason):
    manifest = json.loads((copied / MANIFEST).read_text())
    (copied / MANIFEST).write_text(change(manifest))
    with pytest.raises(ArtifactError, match=reason):
        open_artifact(copied)


def test_a_stale_derived_file_is_refused_with_the_remedy(copied):
    artifact = open_artifact(copied)
    (copied / "model.fp16.onnx").write_bytes(b"derived")
    command = "dfvt-deploy convert dfvt_t_classification --precision fp16"
    derived = file_record(
        copied / "model.fp16.onnx", Precision.FP16, command, source_sha256="0" * 64
    )
    files = {**artifact.manifest.files, "model.fp16.onnx": derived}
    changed = artifact.manifest.model_copy(update={"files": files})
    (copied / MANIFEST).write_text(changed.as_text())
    with pytest.raises(ArtifactError, match=r"another model.onnx; make it again with: .* fp16"):
        open_artifact(copied).onnx_path(Precision.FP16)
    with pytest.raises(ArtifactError, match=r"has no model.int8.onnx; make it with: .* int8"):
        open_artifact(copied).onnx_path(Precision.INT8)


def _files(directory: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in directory.iterdir()}


def test_a_failed_check_leaves_the_earlier_export(checkpoint_t, copied, monkeypatch):
    before = _files(copied)
    limits = {Precision.FP32: (Limit("logits, max relative", 0.0),)}
    strict = replace(compared.COMPARISON, limits=limits)
    monkeypatch.setattr(compared, "COMPARISON", strict)
    with pytest.raises(StageFailed, match=r"logits, max relative .* \(≤ 0\); .* was not written"):
        export("t", checkpoint=checkpoint_t, output=copied.parent)
    assert _files(copied) == before


def test_a_manifest_that_cannot_be_written_leaves_the_earlier_export(
    checkpoint_t, copied, monkeypatch
):

    before = _files(copied)
    monkeypatch.setattr(Manifest, "as_text", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export("t", checkpoint=checkpoint_t, output=copied.parent)
    assert _files(copied) == before


def test_a_model_that_answers_nan_does_not_pass(tmp_path):
    weights = fixture_state_dict("t")
    weights["head.weight"] = torch.full_like(weights["head.weight"], 3e38)
    path = save_published(tmp_path / "overflow.pth", weights)
    with pytest.raises(StageFailed, match=r"non-finite values \d+ \(≤ 0\)"):
        export("t", checkpoint=path, output=tmp_path / "exports")


def test_exported_models_are_found_by_their_manifest(copied):
    (copied.parent / "stray").mkdir()
    assert exported_models(copied.parent) == [copied]
    with pytest.raises(ArtifactError, match="holds no exported model"):
        exported_models(copied / "none")
