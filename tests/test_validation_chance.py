"""`validate` where the reference has learnt nothing."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dfvt_deploy.artifact import open_artifact
from dfvt_deploy.cli import app
from dfvt_deploy.errors import GateFailed
from dfvt_deploy.serving.repository import populate

from .fixtures import encoded, json_document, photograph


@pytest.fixture
def directory(artifact_t, tmp_path) -> Path:
    """A copy of a classifier whose weights have learnt nothing."""
    target = tmp_path / "exports" / artifact_t.manifest.name
    return Path(shutil.copytree(artifact_t.directory, target))


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A list of three images with classes that the classifier does not find."""
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(encoded(photograph(120, 90, i)))
    path = tmp_path / "list.txt"
    path.write_text("0.jpg 11\n1.jpg 22\n2.jpg 33\n")
    return path


def test_a_gate_on_a_reference_at_chance_is_inconclusive(
    directory, checkpoint_t, dataset, tmp_path
):
    arguments = ["validate", directory.name, "--exports", str(directory.parent), "--threads", "1"]
    arguments += ["--checkpoint", str(checkpoint_t), "--dataset", "imagenet", "--max-drop", "5"]
    result = CliRunner().invoke(app, [*arguments, "--data", str(dataset), "--json"])
    assert result.exit_code == 4, result.output
    found = json_document("validate", result.stdout)
    assert (found["outcome"], found["culprit"]) == ("inconclusive", None)
    assert found["reference_level"] == {
        "score": 0,
        "lower_bound": 0,
        "chance": 0.1,
        "needed": 2.1,
    }
    assert [stage["basis"] for stage in found["stages"]] == [None, "chance", "chance"]
    assert "top1 of the reference is 0.00 (lower bound 0.00) on 3 images" in found["reason"]
    for cause in ("untrained", "labels", "preprocessing"):
        assert cause in found["reason"]
    assert "within" not in found["reason"]
    verdict = open_artifact(directory).manifest.verdicts["model.onnx"]
    assert verdict.verdict == "inconclusive"
    with pytest.raises(GateFailed, match="did not pass: inconclusive"):
        populate(directory, repository=tmp_path / "r", require_validated=True)
