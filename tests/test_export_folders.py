"""Export folders stay whole when writers are killed or meet, and hold no links."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dfvt_deploy.artifact import exported_models, file_record, open_artifact, read_manifest
from dfvt_deploy.errors import ArtifactError, DfvtError, GateFailed
from dfvt_deploy.evaluate.options import ValidateOptions
from dfvt_deploy.manifest import MANIFEST
from dfvt_deploy.precision.options import ConvertOptions
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.types import Int8Target, Precision

from .mutations import mutated
from .test_commands import parsed

ROOT = Path(__file__).parent.parent


@pytest.fixture
def small(artifact_t, tmp_path):
    """An export folder with a real manifest and a model.onnx of a few bytes."""
    folder = tmp_path / "exports" / artifact_t.directory.name
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"small")
    record = file_record(folder / "model.onnx", Precision.FP32, "dfvt-deploy export")
    manifest = artifact_t.manifest.model_copy(update={"files": {"model.onnx": record}})
    (folder / MANIFEST).write_text(manifest.as_text())
    return folder


def test_kills_and_parallel_writers_leave_a_whole_folder(small):
    done = subprocess.run(
        [sys.executable, "-m", "tests.folder_writers", str(small)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] > 40
    assert report["left"] == [
        "dfvt_t_classification",
        "manifest.json",
        "model.fp16.onnx",
        "model.onnx",
    ]


def test_remedies_are_whole_commands(small):
    artifact = open_artifact(small)
    with pytest.raises(ArtifactError, match="make it with: ") as error:
        artifact.onnx_path(Precision.INT8, Int8Target.TENSORRT)
    assert parsed(str(error.value).partition("make it with: ")[2]) == ConvertOptions(
        models=[artifact.manifest.name], exports=small.parent, precision="int8", target="tensorrt"
    )
    with pytest.raises(GateFailed, match="run: ") as error:
        artifact.require_validated("model.onnx")
    assert parsed(str(error.value).partition("run: ")[2]) == ValidateOptions(
        model=artifact.manifest.name, exports=small.parent
    )


def test_a_copy_under_another_name_is_refused_with_the_fix(small):
    copy = small.with_name("dfvt_t_classification.bak")
    shutil.copytree(small, copy)
    with pytest.raises(
        ArtifactError, match=r"is the record of dfvt_t_classification, but its fold"
    ):
        open_artifact(copy)


@pytest.mark.parametrize("name", ["model.onnx", MANIFEST])
def test_links_are_refused_with_the_fix(small, tmp_path, name):
    (small / name).rename(tmp_path / "elsewhere")
    (small / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"is a symbolic link; .* replace the link with a copy"):
        open_artifact(small)


def test_a_mistyped_model_is_answered_with_those_that_exist(small):
    with pytest.raises(ArtifactError) as error:
        read_manifest(small.with_name("dfvt_t_clasification") / MANIFEST)
    assert "holds dfvt_t_classification; did you mean dfvt_t_classification?" in str(error.value)
    (small.parent / ".unfinished").mkdir()
    shutil.copy(small / MANIFEST, small.parent / ".unfinished")
    assert exported_models(small.parent) == [small]


def test_damaged_manifests_are_refused_or_harmless(small, tmp_path):
    """Each of 200 changed manifests ends in an error of ours, or in a populated model."""
    manifest = json.loads((small / MANIFEST).read_text())
    refused = 0
    for seed in range(200):
        (small / MANIFEST).write_bytes(mutated(manifest, seed))
        repository = tmp_path / str(seed)
        try:
            populate(small, repository=repository)
        except DfvtError as error:
            assert "Value error" not in str(error)
            assert not list(repository.glob("*"))
            refused += 1
    assert refused > 150
