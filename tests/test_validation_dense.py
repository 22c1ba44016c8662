"""`validate` on dense models: a segmenter that has learnt, and a detector's agreement."""

import shutil

from dfvt_deploy.evaluate.validation import validate
from dfvt_deploy.serving.repository import populate

from .fixtures import encoded, photograph, record_again


def test_swapped_channels_are_found_by_the_segmenter_too(shapes, shapes_artifact, tmp_path):
    directory = shutil.copytree(shapes_artifact.directory, tmp_path / "exports" / "shapes")
    populate(directory, repository=tmp_path / "r")
    step = tmp_path / "r" / "shapes_preprocess" / "1" / "model.py"
    text = step.read_text()
    planted = text.replace(
        "        if self.float_input:",
        '        tensors["images"] = tensors["images"][..., ::-1]\n        if self.float_input:',
    )
    assert planted != text
    step.write_text(planted)
    record_again(tmp_path / "r", "shapes")
    found = validate(
        directory,
        checkpoint=shapes.checkpoint,
        dataset="ade20k",
        data=shapes.heldout,
        limit=6,
        max_drop=5,
        threads=1,
        serve=True,
        repository=tmp_path / "r",
    )
    assert (found.outcome, found.culprit) == ("failed", "triton preprocess")
    assert found.metric == "miou"
    assert found.stage("pytorch").scores["miou"] >= 70
    assert found.stage("simplified").outcome == "passed"
    assert found.stage("triton preprocess").step_drop > 20
    assert found.stage("triton network").step.figures["pixels"] > 0.999
    assert found.stage("triton postprocess").step.figures["pixels"] > 0.999


def test_a_detectors_agreement_through_a_live_server(
    detection_artifact_t, detection_checkpoint_t, tmp_path
):
    source = detection_artifact_t.directory
    directory = shutil.copytree(source, tmp_path / "exports" / source.name)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(encoded(photograph(150, 160)))
    populate(directory, repository=tmp_path / "r")
    found = validate(
        directory,
        checkpoint=detection_checkpoint_t,
        images=folder,
        serve=True,
        repository=tmp_path / "r",
        threads=1,
    )
    assert (found.outcome, found.culprit) == ("passed", None), found.reason
    ensemble = found.stage("triton ensemble").total
    assert ensemble.shares["matched"][1] > 0
    assert ensemble.figures["matched"] == 1
