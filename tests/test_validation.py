"""`validate` on a model that has learnt: the whole way, and faults planted on it."""

import re
import shutil
import urllib.parse
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from dfvt_deploy.artifact import Artifact, file_record, open_artifact, update_manifest
from dfvt_deploy.cli import app
from dfvt_deploy.errors import BadInput, CheckpointError, DfvtError, GateFailed
from dfvt_deploy.evaluate import run
from dfvt_deploy.evaluate.report import with_verdicts
from dfvt_deploy.evaluate.results import Basis, GateFigures
from dfvt_deploy.evaluate.validation import validate
from dfvt_deploy.manifest import Check
from dfvt_deploy.precision.convert import convert
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.types import Flavor, Precision

from .fixtures import encoded, photograph, record_again
from .test_openvino import needs_bfloat16

SERVED = ["triton preprocess", "triton network", "triton postprocess", "triton ensemble"]


@pytest.fixture(scope="session")
def converted(digits, digits_artifact, tmp_path_factory) -> Artifact:
    """The digits model with its FP16 and INT8 files."""
    directory = tmp_path_factory.mktemp("converted") / "digits"
    shutil.copytree(digits_artifact.directory, directory)
    for precision in ("fp16", "int8"):
        convert(directory, precision, calibration=digits.heldout, images=16)
    return open_artifact(directory)


@pytest.fixture
def mine(converted, tmp_path) -> Path:
    """A copy to plant something in."""
    return Path(shutil.copytree(converted.directory, tmp_path / "exports" / "digits"))


@pytest.fixture
def labelled(digits) -> dict:
    return {
        "checkpoint": digits.checkpoint,
        "dataset": "imagenet",
        "data": digits.heldout,
        "limit": 30,
        "max_drop": 5,
        "threads": 1,
    }


def _replace(directory: Path, file: str, model: onnx.ModelProto) -> None:
    """Put another ONNX file in its place, hashes included, so that no hash gives it away."""
    onnx.save_model(model, directory / file)

    def change(manifest):
        before = manifest.files[file]
        record = file_record(
            directory / file, before.precision, before.command, source_sha256=before.source_sha256
        )
        files = {**manifest.files, file: record}
        if file == "model.onnx":
            files = {
                name: entry.model_copy(update={"source_sha256": record.sha256})
                if entry.source_sha256
                else entry
                for name, entry in files.items()
            }
        return manifest.model_copy(update={"files": files})

    update_manifest(directory, change)


def _outcomes(found) -> dict[str, str]:
    return {stage.name: stage.outcome for stage in found.stages}


def test_the_whole_way_from_pytorch_to_a_served_answer(mine, labelled, tmp_path):
    with pytest.raises(GateFailed, match="was never validated; run: dfvt-deploy validate"):
        populate(mine, repository=tmp_path / "r", precision="fp16", require_validated=True)
    assert not (tmp_path / "r").exists()

    local = validate(mine, **labelled)
    assert local.outcome == "passed", local.reason
    assert list(_outcomes(local)) == ["pytorch", "onnx", "simplified", "fp16", "int8"]
    assert {stage.name for stage in local.not_run} == {"openvino bf16", "engine", "triton"}
    manifest = open_artifact(mine).manifest
    for file in ("model.onnx", "model.fp16.onnx", "model.int8.onnx"):
        verdict = manifest.verdicts[file]
        assert verdict.verdict == "passed"
        assert verdict.file_sha256 == manifest.files[file].sha256
        assert verdict.figures["upper_bound"] <= verdict.figures["limit"] == 5
        assert (mine / verdict.report).is_file()

    populate(mine, repository=tmp_path / "r", precision="fp16", require_validated=True)
    network = tmp_path / "r" / "digits_network" / "1"
    report = mine / manifest.verdicts["model.fp16.onnx"].report
    for carried in (report, report.with_suffix(".html")):
        assert (network / carried.name).read_bytes() == carried.read_bytes()

    found = validate(mine, serve=True, repository=tmp_path / "r", **labelled)
    assert found.outcome == "passed", found.reason
    assert found.culprit is None
    assert list(_outcomes(found)) == ["pytorch", "onnx", "simplified", "fp16", "int8", *SERVED]
    assert [stage.source for stage in found.stages][-6:] == [
        "simplified",
        "simplified",
        "fp16",
        *SERVED[:-1],
    ]
    assert found.stage("pytorch").scores["top1"] >= 90
    assert found.stage("triton ensemble").total.figures["top1"] >= 0.97
    assert found.stage("triton preprocess").step.tensors["images"].max_abs == 0
    assert 0 < found.stage("fp16").step.tensors["logits"].max_rel < 0.01
    page = (mine / found.reports["html"]).read_text()
    headings = re.findall(r"Images that changed most: ([^<]+)<", page)
    assert headings == ["fp16", "int8", "triton ensemble"]
    for name, part in zip(headings, page.split("Images that changed most: ")[1:], strict=True):
        changed = found.stage(name).changed
        assert len(changed) == 6 and all(f"<b>{one.image}</b>" in part for one in changed)
        assert part.count(f"Answer of {name} on ") == part.count("Answer of PyTorch") == 6
    assert found.stage("int8").changed[0].change > found.stage("fp16").changed[0].change


def test_swapped_channels_in_the_servers_preprocessing(mine, labelled, tmp_path):
    populate(mine, repository=tmp_path / "r")
    step = tmp_path / "r" / "digits_preprocess" / "1" / "model.py"
    text = step.read_text()
    planted = text.replace(
        "        if self.float_input:",
        '        tensors["images"] = tensors["images"][..., ::-1]\n        if self.float_input:',
    )
    assert planted != text
    step.write_text(planted)
    record_again(tmp_path / "r", "digits")
    found = validate(mine, serve=True, repository=tmp_path / "r", precisions=["fp32"], **labelled)
    assert (found.outcome, found.culprit) == ("failed", "triton preprocess")
    assert _outcomes(found)["simplified"] == "passed"
    assert found.stage("triton preprocess").step_drop > 20
    assert found.stage("triton network").step.tensors["logits"].max_rel < 1e-4
    assert found.stage("triton postprocess").step.figures["top1"] == 1
    page = (mine / found.reports["html"]).read_text()
    assert "failed (culprit)" in page
    assert page.count("data:image/jpeg") == 2 * len(found.stage(found.shown).changed) == 12


def test_a_label_file_shifted_by_one_in_the_servers_last_step(mine, labelled, tmp_path):
    populate(mine, repository=tmp_path / "r")
    labels = tmp_path / "r" / "digits_postprocess" / "1" / "labels.txt"
    names = labels.read_text().splitlines()
    labels.write_text("\n".join([*names[1:], names[0]]) + "\n")
    record_again(tmp_path / "r", "digits")
    found = validate(mine, serve=True, repository=tmp_path / "r", precisions=["fp32"], **labelled)
    assert (found.outcome, found.culprit) == ("failed", "triton postprocess")
    assert _outcomes(found)["triton network"] == "passed"
    assert found.stage("triton postprocess").drop > 80


def test_a_wrong_epsilon_in_the_onnx_file(mine, labelled):
    model = onnx.load(mine / "model.onnx")
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    (epsilon,) = (entry for entry in norm.attribute if entry.name == "epsilon")
    epsilon.f = 1e-3
    _replace(mine, "model.onnx", model)
    found = validate(mine, precisions=["fp16"], **labelled)
    assert (found.outcome, found.culprit) == ("failed", "simplified")
    assert _outcomes(found)["onnx"] == "passed"
    assert open_artifact(mine).manifest.verdicts["model.onnx"].verdict == "failed"
    with pytest.raises(GateFailed, match="did not pass: failed, on 30 images"):
        populate(mine, repository=mine.parent / "r", require_validated=True)


def _clip(model: onnx.ModelProto, to: float) -> str:
    """Clip the output of a node in half precision, under its own name, and return that."""
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    half = [
        node
        for node in model.graph.node
        if node.op_type in ("Conv", "Add", "MatMul")
        and types.get(node.output[0]) == onnx.TensorProto.FLOAT16
    ]
    node = half[len(half) // 2]
    name = node.output[0]
    node.output[0] = f"{name}_unclipped"
    bounds = [
        numpy_helper.from_array(np.array(value, np.float16), f"{name}_{what}")
        for what, value in (("low", -to), ("high", to))
    ]
    model.graph.initializer.extend(bounds)
    clip = helper.make_node("Clip", [node.output[0], *(b.name for b in bounds)], [name])
    model.graph.node.insert(list(model.graph.node).index(node) + 1, clip)
    return name


@pytest.mark.parametrize("labels", [True, False], ids=["labels", "agreement"])
def test_a_clipped_fp16_node(mine, labelled, digits, labels):
    model = onnx.load(mine / "model.fp16.onnx")
    clipped = _clip(model, 0.01)
    _replace(mine, "model.fp16.onnx", model)
    if not labels:
        labelled = {
            "checkpoint": digits.checkpoint,
            "images": digits.heldout / "3",
            "limit": 8,
            "threads": 1,
        }
    found = validate(mine, layers="fp16", **labelled)
    assert (found.outcome, found.culprit) == ("failed", "fp16")
    assert _outcomes(found)["simplified"] == "passed"
    assert found.layers.first.tensor == clipped
    assert found.layers.first.operator == "Clip"


def _comparable(found) -> dict:
    document = found.model_dump(exclude={"created", "seconds", "reports", "command", "commands"})
    for stage in document["stages"]:
        del stage["milliseconds"]
    return document


def test_an_interrupted_run_goes_on_and_gives_the_same_figures(mine, labelled, monkeypatch):
    options = {**labelled, "limit": 8, "precisions": ["fp32"]}
    append = run.ResultStore.append
    stored = []

    def interrupted_after_three(self, key, record):
        if len(stored) == 3:
            raise KeyboardInterrupt
        append(self, key, record)
        stored.append(key)

    monkeypatch.setattr(run.ResultStore, "append", interrupted_after_three)
    with pytest.raises(KeyboardInterrupt):
        validate(mine, **options)

    later = []

    def counted(self, key, record):
        append(self, key, record)
        later.append(key)

    monkeypatch.setattr(run.ResultStore, "append", counted)
    resumed = validate(mine, **options)
    assert len(stored) == 3
    assert len(later) == 5
    assert set(stored).isdisjoint(later)
    assert resumed.images == 8
    whole = validate(mine, fresh=True, **options)
    assert len(later) == 5 + 8
    assert _comparable(resumed) == _comparable(whole)
    validate(mine, **{**options, "limit": 16})
    assert len(later) == 5 + 8 + 8, "other limits share results"


def test_an_image_that_changes_during_the_run_is_counted_as_it_was_read(
    mine, digits, tmp_path, monkeypatch
):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        (images / f"{i}.jpg").write_bytes(encoded(photograph(120, 90, i)))
    prepare = run.prepare

    def meanwhile(sample, pipeline):
        if sample.id == "1.jpg":
            sample.path.unlink()
        return prepare(sample, pipeline)

    monkeypatch.setattr(run, "prepare", meanwhile)
    options = {"checkpoint": digits.checkpoint, "precisions": ["fp32"], "threads": 1}
    found = validate(mine, images=images, **options)
    assert (found.outcome, found.images, found.refused) == ("failed", 2, 1)
    assert "No such file" in found.unjudged[0].reason


def test_agreement_does_not_undo_the_verdict_of_a_gate(mine, labelled, digits, tmp_path):
    shutil.rmtree(mine / "validation", ignore_errors=True)
    failed = GateFigures(verdict="failed", drop=3, upper_bound=4, limit=1, images=30)
    found = validate(mine, **{**labelled, "precisions": ["fp32"], "limit": 2})
    stages = tuple(
        stage.model_copy(update={"outcome": "failed", "gate": failed}) if stage.file else stage
        for stage in found.stages
    )
    update_manifest(mine, lambda m: with_verdicts(m, found.model_copy(update={"stages": stages})))
    agreed = validate(
        mine,
        checkpoint=digits.checkpoint,
        images=digits.heldout / "1",
        limit=1,
        precisions=["fp32"],
        threads=1,
    )
    assert agreed.outcome == "passed", agreed.reason
    assert any("does not undo the verdict of a gate" in note for note in agreed.notes)
    with pytest.raises(GateFailed, match=r"did not pass: failed, on .*--max-drop 5"):
        populate(mine, repository=tmp_path / "r", require_validated=True)
    validate(mine, **{**labelled, "precisions": ["fp32"], "limit": 2})
    assert open_artifact(mine).manifest.verdicts["model.onnx"].verdict == "passed"


def test_a_file_is_not_passed_with_what_an_earlier_stage_broke(mine, labelled):
    found = validate(mine, **{**labelled, "precisions": ["fp16"], "limit": 2})
    assert found.outcome == "passed", found.reason
    broken = Check(name="logits, max relative", figure=1, limit=0.1, passed=False)
    stages = tuple(
        stage.model_copy(
            update={"outcome": "failed", "basis": Basis.STEP, "step_checks": (broken,)}
        )
        if stage.name == "onnx"
        else stage
        for stage in found.stages
    )
    judged = with_verdicts(
        open_artifact(mine).manifest, found.model_copy(update={"stages": stages})
    ).verdicts
    assert {file: verdict.verdict for file, verdict in judged.items()} == {
        "model.onnx": "failed",
        "model.fp16.onnx": "failed",
    }


def test_an_image_that_cannot_be_decoded_is_counted_and_the_gate_fails(mine, digits, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        (images / f"{i}.jpg").write_bytes(encoded(photograph(120, 90, i)))
    cut = (images / "1.jpg").read_bytes()
    (images / "1.jpg").write_bytes(cut[: len(cut) // 2])
    found = validate(
        mine, checkpoint=digits.checkpoint, images=images, precisions=["fp32"], threads=1
    )
    assert (found.outcome, found.culprit) == ("failed", "decoding")
    assert (found.images, found.refused) == (2, 1)
    assert found.unjudged[0].image == "1.jpg"
    assert "1 of 3 images could not be judged" in found.reason
    assert open_artifact(mine).manifest.verdicts["model.onnx"].verdict == "failed"


def test_an_image_that_the_server_refuses_is_counted_and_the_gate_fails(mine, digits, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name, side in (("large", 300), ("small", 60)):
        (images / f"{name}.png").write_bytes(encoded(photograph(side, side), "PNG"))
    populate(mine, repository=tmp_path / "r", max_pixels=70_000)
    found = validate(
        mine,
        checkpoint=digits.checkpoint,
        images=images,
        precisions=["fp32"],
        serve=True,
        repository=tmp_path / "r",
        threads=1,
    )
    assert (found.outcome, found.culprit) == ("failed", "triton preprocess")
    assert (found.images, found.refused) == (1, 1)
    assert "the limit is 70,000" in found.unjudged[0].reason


def test_a_running_server_is_asked_over_http(artifact_t, checkpoint_t, server, tmp_path):
    directory = Path(shutil.copytree(artifact_t.directory, tmp_path / "dfvt_t_classification"))
    found = validate(
        directory, checkpoint=checkpoint_t, url=server.http_url, protocol="http", limit=1, threads=1
    )
    assert found.outcome == "passed", found.reason
    assert [stage.name for stage in found.stages][-4:] == SERVED
    assert found.metric is None
    assert found.stage("triton network").title.endswith("over http")


def test_the_reference_is_the_checkpoint_of_the_export(mine, checkpoint_t, digits, tmp_path):
    with pytest.raises(CheckpointError, match="is not the checkpoint of digits: its SHA-256 is"):
        validate(mine, checkpoint=checkpoint_t)
    gone = {"checkpoint": open_artifact(mine).manifest.checkpoint.model_copy(update={"file": "x"})}
    update_manifest(mine, lambda manifest: manifest.model_copy(update=gone))
    with pytest.raises(CheckpointError, match=r"give --checkpoint the file, or .*--against onnx"):
        validate(mine)
    found = validate(mine, against="onnx", images=digits.heldout / "1", limit=2, threads=1)
    assert found.outcome == "passed", found.reason
    assert found.stages[0].name == "simplified"
    assert {"pytorch", "onnx"} <= {stage.name for stage in found.not_run}
    assert open_artifact(mine).manifest.verdicts == {}


def test_what_is_not_there_is_named(mine, tmp_path):
    with pytest.raises(BadInput, match=r"no model\.x\.plan; .*dfvt-deploy build-trt"):
        validate(mine, against="onnx", engines=["model.x.plan"])
    with pytest.raises(BadInput, match=r"--layers int8 needs model\.int8\.onnx, which is left out"):
        validate(mine, against="onnx", precisions=["fp16"], layers="int8")
    with pytest.raises(BadInput, match=r"checkpoint nowhere\.pth does not exist"):
        validate(mine, checkpoint="nowhere.pth", images=tmp_path / "nowhere")
    with pytest.raises(BadInput, match="does not hold digits; add it with"):
        validate(mine, against="onnx", serve=True, repository=tmp_path)


def test_an_engine_that_does_not_run_here_is_left_out_with_the_reason(mine, digits):
    plan = mine / "model.fp16.sm90.plan"
    plan.write_bytes(b"no plan")
    source = open_artifact(mine).manifest.files["model.fp16.onnx"].sha256
    record = file_record(
        plan, Precision.FP16, "dfvt-deploy build-trt", source_sha256=source, flavor=Flavor.TENSORRT
    )
    update_manifest(mine, lambda m: m.model_copy(update={"files": {**m.files, plan.name: record}}))
    options = {"against": "onnx", "images": digits.heldout / "1", "limit": 1, "threads": 1}
    found = validate(mine, **options)
    (left_out,) = (stage for stage in found.not_run if stage.name == plan.name)
    assert "plan" in left_out.reason
    with pytest.raises(DfvtError, match="plan"):
        validate(mine, engines=[plan.name], **options)


def test_the_int8_file_of_each_target_has_a_stage_and_a_verdict(mine, digits):
    path = mine / "model.int8.tensorrt.onnx"
    shutil.copy(mine / "model.int8.onnx", path)
    (mine / "model.int8.onnx").unlink()
    before = open_artifact(mine, Precision.FP32).manifest.files["model.int8.onnx"]
    record = file_record(path, Precision.INT8, before.command, source_sha256=before.source_sha256)

    def change(manifest):
        files = {k: v for k, v in manifest.files.items() if k != "model.int8.onnx"}
        return manifest.model_copy(update={"files": {**files, path.name: record}})

    update_manifest(mine, change)
    options = {"checkpoint": digits.checkpoint, "images": digits.heldout / "1", "limit": 1}
    found = validate(mine, precisions=["int8"], threads=1, **options)
    assert found.stage("int8 tensorrt").file == path.name
    assert path.name in open_artifact(mine).manifest.verdicts
    with pytest.raises(BadInput, match=r"--layers int8 needs model\.int8\.onnx"):
        validate(mine, layers="int8", **options)


@needs_bfloat16
def test_bfloat16_has_a_verdict_of_its_own_and_is_judged_so_when_served(mine, labelled, tmp_path):
    served = {"repository": tmp_path / "r", "backend": "openvino", "precision": "bf16"}
    validate(mine, precisions=["fp32"], **labelled)
    with pytest.raises(GateFailed, match=r"in bf16 was never validated; run: .* --precision bf16"):
        populate(mine, **served, require_validated=True)
    populate(mine, **served, threads=1)

    found = validate(mine, precisions=["fp32"], serve=True, repository=tmp_path / "r", **labelled)
    assert found.outcome == "passed", found.reason
    bfloat16, network = found.stage("openvino bf16"), found.stage("triton network")
    assert (network.precision, network.source) == ("bf16", "triton preprocess")
    assert found.stage("triton preprocess").source == "openvino bf16"
    assert "serving model.onnx in bf16" in network.title
    assert bfloat16.gate is not None
    assert 1e-3 < bfloat16.step.tensors["logits"].max_rel < 0.03
    assert network.step.tensors["logits"].max_rel < bfloat16.step.tensors["logits"].max_rel / 10

    verdicts = open_artifact(mine).manifest.verdicts
    assert verdicts["model.onnx.bf16"].verdict == verdicts["model.onnx"].verdict == "passed"
    version = populate(mine, **served, require_validated=True).version
    report = verdicts["model.onnx.bf16"].report
    assert (tmp_path / "r" / "digits_network" / str(version) / report).is_file()


def test_a_repository_of_another_export_is_refused(mine, tmp_path):
    populate(mine, repository=tmp_path / "r")
    model = onnx.load(mine / "model.onnx")
    model.doc_string = "another"
    _replace(mine, "model.onnx", model)
    with pytest.raises(BadInput, match=r"serves none of the files of .*populate again"):
        validate(mine, against="onnx", serve=True, repository=tmp_path / "r")


def test_the_command_ends_with_4_and_prints_json(mine, digits, tmp_path):
    model = onnx.load(mine / "model.fp16.onnx")
    _clip(model, 0.01)
    _replace(mine, "model.fp16.onnx", model)
    arguments = ["validate", "digits", "--exports", str(mine.parent), "--precision", "fp16"]
    arguments += ["--checkpoint", str(digits.checkpoint), "--images", str(digits.heldout / "7")]
    result = CliRunner().invoke(app, [*arguments, "--limit", "4", "--threads", "1"])
    assert result.exit_code == 4, result.output
    assert "failed, culprit: fp16" in result.stdout
    assert "error: digits: failed: fp16" in result.stderr
    page = result.stdout.splitlines()[-1].removeprefix("next: python -m webbrowser ")
    assert Path(urllib.parse.unquote(urllib.parse.urlsplit(page).path)).is_file()
    arguments = ["populate", "digits", "--exports", str(mine.parent), "--require-validated"]
    arguments += ["--repository", str(tmp_path / "r"), "--precision", "fp16"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 4, result.output
    assert not (tmp_path / "r").exists()


def test_precisions_left_out_are_said(mine, digits):
    found = validate(
        mine,
        checkpoint=digits.checkpoint,
        images=digits.heldout / "1",
        limit=1,
        threads=1,
        precisions=[Precision.INT8],
    )
    assert [stage.name for stage in found.stages] == ["pytorch", "onnx", "simplified", "int8"]
    assert {stage.name for stage in found.not_run} == {
        "fp16",
        "openvino bf16",
        "engine",
        "triton",
    }
