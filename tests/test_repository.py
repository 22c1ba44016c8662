"""`populate`: what Triton will read, written through its own schema and parsed back."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfvt_deploy.artifact import file_record, update_manifest
from dfvt_deploy.errors import ArtifactError, BadInput, StageFailed
from dfvt_deploy.serving import config as pbtxt
from dfvt_deploy.serving import options as options_module
from dfvt_deploy.serving.layout import (
    live_version,
    model_names,
    read_version,
    verify_repository,
    versions,
)
from dfvt_deploy.serving.options import PopulateOptions
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.tasks import classification, images
from dfvt_deploy.tasks.images import ImageLimits
from dfvt_deploy.types import Precision

from .fixtures import encoded, photograph

NAME = "dfvt_t_classification"


def _config(repository: Path, model: str):
    return pbtxt.from_text((repository / model / "config.pbtxt").read_text())


def _tensors(entries):
    return {entry.name: (entry.data_type, list(entry.dims)) for entry in entries}


def test_repository_is_that_of_the_contract(repository):
    ensemble = _config(repository, NAME)
    assert ensemble.platform == "ensemble"
    assert _tensors(ensemble.input) == {"image": (pbtxt.schema.TYPE_STRING, [1])}
    assert _tensors(ensemble.output) == {
        "class_ids": (pbtxt.schema.TYPE_INT32, [5]),
        "scores": (pbtxt.schema.TYPE_FP32, [5]),
        "labels": (pbtxt.schema.TYPE_STRING, [5]),
    }
    steps = ensemble.ensemble_scheduling.step
    assert [step.model_name for step in steps] == [
        f"{NAME}_{s}" for s in ("preprocess", "network", "postprocess")
    ]
    assert all(step.model_version == 1 for step in steps)
    assert not ensemble.instance_group
    network = _config(repository, f"{NAME}_network")
    assert network.backend == "onnxruntime"
    assert _tensors(network.input) == {"images": (pbtxt.schema.TYPE_UINT8, [224, 224, 3])}
    assert _tensors(network.output) == {"logits": (pbtxt.schema.TYPE_FP32, [1000])}
    assert network.HasField("dynamic_batching")
    (group,) = network.instance_group
    assert (group.kind, group.count) == (pbtxt.schema.ModelInstanceGroup.KIND_CPU, 2)
    assert {m.max_batch_size for m in (ensemble, network)} == {64}


def test_every_tensor_between_the_steps_is_made_and_taken(repository):
    ensemble = _config(repository, NAME)
    made = _tensors(ensemble.input)
    for step in ensemble.ensemble_scheduling.step:
        config = _config(repository, step.model_name)
        assert {k: made[v] for k, v in step.input_map.items()} == _tensors(config.input)
        assert set(step.output_map) == {output.name for output in config.output}
        outputs = _tensors(config.output)
        made.update({v: outputs[k] for k, v in step.output_map.items()})
    assert all(made[name] == spec for name, spec in _tensors(ensemble.output).items())


def test_options_reach_the_configs(artifact_t, tmp_path):
    populate(
        artifact_t.directory,
        repository=tmp_path / "r",
        max_batch_size=8,
        top_k=7,
        device="gpu",
        instances=2,
        queue_delay_us=500,
    )
    network = _config(tmp_path / "r", f"{NAME}_network")
    (group,) = network.instance_group
    assert (group.kind, group.count) == (pbtxt.schema.ModelInstanceGroup.KIND_GPU, 2)
    assert network.dynamic_batching.max_queue_delay_microseconds == 500
    assert "intra_op_thread_count" not in network.parameters
    preprocess = _config(tmp_path / "r", f"{NAME}_preprocess")
    assert preprocess.instance_group[0].kind == pbtxt.schema.ModelInstanceGroup.KIND_CPU
    assert preprocess.instance_group[0].count == 4
    assert _tensors(_config(tmp_path / "r", NAME).output)["scores"][1] == [7]


def test_the_limits_of_images_are_those_of_the_tasks():
    defaults = PopulateOptions()
    assert ImageLimits() == ImageLimits(defaults.max_bytes, defaults.max_pixels)
    assert options_module.MOST_PIXELS == images.MOST_PIXELS


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_batch_size": 0}, "--max-batch-size 0 is below 1"),
        ({"top_k": 0}, "--top-k 0 is below 1"),
        ({"instances": 0}, "--instances 0 is outside"),
        ({"preprocess_instances": -3}, "--preprocess-instances -3 is outside"),
        ({"threads": -1}, "--threads -1 is outside"),
        ({"queue_delay_us": 10**9}, "--queue-delay-us 1e.09 is outside"),
        ({"max_pixels": 10**9}, "--max-pixels 1e.09 is outside"),
        ({"backend": "pytorch"}, "'pytorch' is none of onnxruntime, openvino, tensorrt"),
        ({"flavor": "rtx"}, "--flavor rtx is for --backend tensorrt"),
        ({"backend": "tensorrt", "device": "cpu"}, "--backend tensorrt runs on a GPU"),
        ({"backend": "tensorrt", "threads": 2}, "--threads 2 is for a network on the CPU"),
    ],
)
def test_options_that_mean_nothing_are_refused(wrong, message):
    with pytest.raises(BadInput, match=message):
        PopulateOptions(**wrong)


def test_top_k_is_for_classifiers_with_as_many_classes(
    artifact_t, segmentation_artifact_t, tmp_path
):
    with pytest.raises(BadInput, match="--top-k 1001 is above the 1000 classes"):
        populate(artifact_t.directory, repository=tmp_path / "r", top_k=1001)
    with pytest.raises(BadInput, match="--top-k is for classification"):
        populate(segmentation_artifact_t.directory, repository=tmp_path / "r", top_k=2)
    assert not (tmp_path / "r").exists()


def _served_versions(repository: Path) -> set[int]:
    """The versions that Triton loads of the four models, and that the ensemble asks for."""
    found = set()
    for name in model_names(NAME):
        config = _config(repository, name)
        found |= set(config.version_policy.specific.versions)
        found |= {step.model_version for step in config.ensemble_scheduling.step}
        assert all((repository / name / str(version)).is_dir() for version in found)
    return found


def _contents(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()
    }


def test_a_new_version_keeps_the_earlier_one(artifact_t, tmp_path):
    repository = tmp_path / "r"
    assert populate(artifact_t.directory, repository=repository).version == 1
    first = _contents(repository)
    assert populate(artifact_t.directory, repository=repository, top_k=3).version == 2
    assert populate(artifact_t.directory, repository=repository, version=7).version == 7
    assert live_version(repository, NAME) == 7
    assert populate(artifact_t.directory, repository=repository).version == 8
    now = _contents(repository)
    kept = {path: data for path, data in first.items() if "/1/" in path}
    assert kept == {path: data for path, data in now.items() if "/1/" in path}
    assert "dims: 3" in now[f"{NAME}/2/config.pbtxt"].decode()
    assert now[f"{NAME}/config.pbtxt"] == now[f"{NAME}/8/config.pbtxt"]
    assert versions(repository, NAME) == [1, 2, 7, 8]
    assert _served_versions(repository) == {8}
    with pytest.raises(BadInput, match=r"version 7 is in .* already; the next is 9"):
        populate(artifact_t.directory, repository=repository, version=7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]


def test_a_failed_populate_leaves_the_repository_as_it_was(artifact_t, tmp_path, monkeypatch):
    repository = tmp_path / "r"
    populate(artifact_t.directory, repository=repository)
    before = _contents(repository)
    renamed = []
    rename = Path.rename

    def fails_at_the_third(self, target):
        renamed.append(target)
        if len(renamed) == 3:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_at_the_third)
    with pytest.raises(StageFailed, match="No space left"):
        populate(artifact_t.directory, repository=repository)
    assert _contents(repository) == before
    assert not (repository / f"{NAME}_preprocess" / "2").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r"]


def test_the_repository_stands_alone(repository, artifact_t):
    """Its code runs without dfvt_deploy, from the files in the repository only."""
    for path in repository.rglob("*.py"):
        assert "import dfvt_deploy" not in path.read_text()
        assert "from dfvt_deploy" not in path.read_text()
    version = repository / f"{NAME}_preprocess" / "1"
    image = encoded(photograph(300, 200), "PNG")
    script = (
        "import sys, importlib; sys.path.insert(0, sys.argv[1]);"
        "sys.modules['dfvt_deploy'] = sys.modules['torch'] = None;"
        "from dfvt_tasks.images import decode_image;"
        "from dfvt_tasks import classification;"
        "data = sys.stdin.buffer.read();"
        "out = classification.preprocess_batch([decode_image(data)])['images'];"
        "sys.stdout.buffer.write(out.tobytes())"
    )
    output = subprocess.run(
        [sys.executable, "-c", script, str(version)], input=image, capture_output=True, check=True
    ).stdout
    expected = classification.preprocess(Image.open(io.BytesIO(image)))
    assert np.array_equal(np.frombuffer(output, np.uint8).reshape(224, 224, 3), expected)
    assert (repository / "requirements.txt").read_text().startswith("numpy")
    labels = (repository / f"{NAME}_postprocess" / "1" / "labels.txt").read_text().splitlines()
    assert tuple(labels) == artifact_t.manifest.labels


def test_changed_files_are_noticed_before_and_after(artifact_t, tmp_path):
    directory = tmp_path / NAME
    directory.mkdir()
    for file in artifact_t.directory.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    populate(directory, repository=tmp_path / "r")
    verify_repository(tmp_path / "r")
    with (directory / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="was changed"):
        populate(directory, repository=tmp_path / "r")
    with (tmp_path / "r" / f"{NAME}_network" / "1" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="not the file that was populated"):
        verify_repository(tmp_path / "r")


def test_an_older_version_does_not_change_what_is_served(artifact_t, tmp_path):
    repository = tmp_path / "r"
    populate(artifact_t.directory, repository=repository, version=5)
    served = (repository / NAME / "config.pbtxt").read_bytes()
    populate(artifact_t.directory, repository=repository, version=3, top_k=2)
    assert (repository / NAME / "config.pbtxt").read_bytes() == served
    assert b"dims: 2" in (repository / NAME / "3" / "config.pbtxt").read_bytes()


def test_an_interrupted_first_populate_leaves_an_empty_repository(
    artifact_t, tmp_path, monkeypatch
):
    rename = Path.rename

    def interrupted_at_the_network(self, target):
        if "_network" in str(target):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted_at_the_network)
    with pytest.raises(KeyboardInterrupt):
        populate(artifact_t.directory, repository=tmp_path / "r")
    assert list((tmp_path / "r").iterdir()) == []


def test_a_repository_on_another_file_system_is_populated(artifact_t):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        repository = Path(folder)
        original = Path.stat

        class Elsewhere:
            def __init__(self, real):
                self.real = real

            def __getattr__(self, name):
                return getattr(self.real, name)

            st_dev = -1

        def stat(self, **options):
            found = original(self, **options)
            return Elsewhere(found) if self == repository.parent else found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "stat", stat)
            populate(artifact_t.directory, repository=repository)
        folders = {path.parent.name for path in repository.rglob("*.part")}
        assert not folders
        assert (repository / NAME / "1").is_dir()


def test_network_carries_its_manifest(repository, artifact_t):
    copied = json.loads((repository / f"{NAME}_network" / "1" / "manifest.json").read_text())
    assert copied == json.loads((artifact_t.directory / "manifest.json").read_text())
    assert [name for name in model_names(NAME) if (repository / name / "1").is_dir()] == list(
        model_names(NAME)
    )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_converted_file_is_served_under_the_same_name(artifact_t, tmp_path, precision):
    directory = tmp_path / NAME
    shutil.copytree(artifact_t.directory, directory)
    with pytest.raises(ArtifactError, match=rf"convert \S+ --precision {precision}"):
        populate(directory, repository=tmp_path / "r", precision=precision)
    source = artifact_t.manifest.files["model.onnx"].sha256
    converted = directory / f"model.{precision}.onnx"
    converted.write_bytes(b"stand-in: a file, whatever made it")
    for made_from in ("0" * 64, source):
        entry = file_record(
            converted, Precision(precision), "dfvt-deploy convert", source_sha256=made_from
        )
        update_manifest(
            directory,
            lambda manifest, entry=entry: manifest.model_copy(
                update={"files": {**manifest.files, converted.name: entry}}
            ),
        )
        if made_from != source:
            with pytest.raises(ArtifactError, match=r"made from another model\.onnx"):
                populate(directory, repository=tmp_path / "r", precision=precision)
    populate(directory, repository=tmp_path / "r", precision=precision)
    network = tmp_path / "r" / f"{NAME}_network"
    assert (network / "1" / "model.onnx").read_bytes() == converted.read_bytes()
    assert _config(tmp_path / "r", network.name).default_model_filename == "model.onnx"
    verify_repository(tmp_path / "r")


def test_the_warm_up_image_keeps_to_the_limit(artifact_t, tmp_path):
    """The server refuses a larger one, and with it the model."""
    populate(artifact_t.directory, repository=tmp_path, max_pixels=1000)
    content = (tmp_path / f"{NAME}_preprocess" / "warmup" / "sample.1.bytes").read_bytes()
    with Image.open(io.BytesIO(content[4:])) as image:
        assert 900 < image.width * image.height <= 1000


def _populate_until_killed(folder: Path, repository: Path, kill_at: int) -> bool:
    """Whether `populate` ended before its process was killed just before a rename or a link."""
    child = os.fork()
    if child == 0:
        done = 0

        def counted(call):
            def run(*args, **kwargs):
                nonlocal done
                done += 1
                if done == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return run

        for name in ("rename", "replace", "symlink"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            populate(folder, repository=repository, top_k=2)
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == 0


def test_a_killed_populate_leaves_the_old_or_the_new_version_whole(artifact_t, tmp_path):
    populate(artifact_t.directory, repository=tmp_path / "before")
    for kill_at in range(1, 40):
        repository = tmp_path / str(kill_at)
        shutil.copytree(tmp_path / "before", repository, symlinks=True)
        ended = _populate_until_killed(artifact_t.directory, repository, kill_at)
        (live,) = _served_versions(repository)
        assert live == live_version(repository, NAME)
        assert live in ((2,) if ended else (1, 2))
        assert all(version in versions(repository, NAME) for version in range(1, live + 1))
        verify_repository(repository)
        populate(artifact_t.directory, repository=repository)
        for name in model_names(NAME):  # and nothing of the killed one is left
            folders = {int(p.name) for p in (repository / name).iterdir() if p.name.isdigit()}
            assert folders == set(versions(repository, NAME))
        assert not list(repository.rglob(".*"))
        if ended:
            break
    assert kill_at > 6


def test_a_first_populate_that_is_killed_is_no_model(artifact_t, tmp_path):
    for kill_at in range(1, 40):
        repository = tmp_path / str(kill_at)
        ended = _populate_until_killed(artifact_t.directory, repository, kill_at)
        assert live_version(repository, NAME) == (1 if ended or versions_live(repository) else 0)
        assert populate(artifact_t.directory, repository=repository).version in (1, 2)
        verify_repository(repository)
        if ended:
            break


def versions_live(repository: Path) -> bool:
    return (repository / NAME / "config.pbtxt").is_file()


def test_two_populates_at_once_both_succeed(artifact_t, tmp_path):
    script = (
        "import sys; from dfvt_deploy.serving.repository import populate;"
        "[populate(sys.argv[1], repository=sys.argv[2]) for _ in range(4)]"
    )
    command = [sys.executable, "-c", script, str(artifact_t.directory), str(tmp_path / "r")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    assert versions(tmp_path / "r", NAME) == list(range(1, 9))
    assert _served_versions(tmp_path / "r") == {8}
    verify_repository(tmp_path / "r")


def test_a_copy_without_links_is_the_same_and_can_be_added_to(artifact_t, tmp_path):
    populate(artifact_t.directory, repository=tmp_path / "r")
    shutil.copytree(tmp_path / "r", tmp_path / "copy")
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))
    assert live_version(tmp_path / "copy", NAME) == 1
    verify_repository(tmp_path / "copy")
    populate(artifact_t.directory, repository=tmp_path / "copy")
    assert _served_versions(tmp_path / "copy") == {2}
    verify_repository(tmp_path / "copy")


@pytest.mark.parametrize("path", [f"{NAME}_network/1", f"{NAME}_postprocess/1/labels.txt"])
def test_links_out_of_a_repository_are_refused(artifact_t, tmp_path, path):
    populate(artifact_t.directory, repository=tmp_path / "r")
    (tmp_path / "r" / path).rename(tmp_path / "elsewhere")
    (tmp_path / "r" / path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="is a symbolic link; populate again"):
        verify_repository(tmp_path / "r")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (f"{NAME}_preprocess/1/model.py", "is not the file that was populated"),
        (f"{NAME}_preprocess/1/dfvt_tasks/images.py", "is not the file that was populated"),
        (f"{NAME}_postprocess/1/labels.txt", "is not the file that was populated"),
        (f"{NAME}_network/1/model.onnx", "is not the file that was populated"),
        (f"{NAME}_postprocess/1/json.py", "was not there when .* was populated"),
    ],
)
def test_what_runs_in_the_server_is_verified(artifact_t, tmp_path, file, message):
    populate(artifact_t.directory, repository=tmp_path)
    with (tmp_path / file).open("ab") as opened:
        opened.write(b"\n")
    with pytest.raises(ArtifactError, match=message):
        verify_repository(tmp_path)
    (tmp_path / file).unlink()
    if "not the file" in message:
        with pytest.raises(ArtifactError, match=r"is missing; populate again"):
            verify_repository(tmp_path)


def test_the_record_says_how_a_version_was_made(artifact_t, tmp_path):
    populate(artifact_t.directory, repository=tmp_path / "r", top_k=3)
    record = read_version(tmp_path / "r", NAME, 1)
    exports = artifact_t.directory.parent
    assert record.command == (
        f"dfvt-deploy populate {NAME} --exports {exports} --repository {tmp_path / 'r'} --top-k 3"
    )
