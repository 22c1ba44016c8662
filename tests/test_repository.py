"""`populate`: what Triton will read, written through its own schema and parsed back."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfvt_deploy.artifact import file_record, update_manifest
from dfvt_deploy.errors import ArtifactError, BadInput, StageFailed
from dfvt_deploy.serving import config as pbtxt
from dfvt_deploy.serving.layout import model_names, newest_version, verify_repository
from dfvt_deploy.serving.repository import PopulateOptions, populate
from dfvt_deploy.tasks import classification
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
    assert all(step.model_version == -1 for step in steps)
    assert not ensemble.instance_group
    network = _config(repository, f"{NAME}_network")
    assert network.backend == "onnxruntime"
    assert _tensors(network.input) == {"images": (pbtxt.schema.TYPE_UINT8, [224, 224, 3])}
    assert _tensors(network.output) == {"logits": (pbtxt.schema.TYPE_FP32, [1000])}
    assert network.HasField("dynamic_batching")
    (group,) = network.instance_group
    assert (group.kind, group.count) == (pbtxt.schema.ModelInstanceGroup.KIND_CPU, 1)
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
    options = PopulateOptions(
        max_batch_size=8,
        k=2000,
        placement=pbtxt.Placement(device="gpu", network_instances=2, queue_delay_us=500),
    )
    populate(artifact_t.directory, repository=tmp_path / "r", options=options)
    network = _config(tmp_path / "r", f"{NAME}_network")
    (group,) = network.instance_group
    assert (group.kind, group.count) == (pbtxt.schema.ModelInstanceGroup.KIND_GPU, 2)
    assert network.dynamic_batching.max_queue_delay_microseconds == 500
    assert "intra_op_thread_count" not in network.parameters
    preprocess = _config(tmp_path / "r", f"{NAME}_preprocess")
    assert preprocess.instance_group[0].kind == pbtxt.schema.ModelInstanceGroup.KIND_CPU
    assert _tensors(_config(tmp_path / "r", NAME).output)["scores"][1] == [1000]


@pytest.mark.parametrize("wrong", [{"max_batch_size": 0}, {"k": 0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(BadInput, match="below 1"):
        PopulateOptions(**wrong)


def _contents(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()
    }


def test_a_new_version_keeps_the_earlier_one(artifact_t, tmp_path):
    repository = tmp_path / "r"
    assert populate(artifact_t.directory, repository=repository).version == 1
    first = _contents(repository)
    options = PopulateOptions(k=3)
    assert populate(artifact_t.directory, repository=repository, options=options).version == 2
    assert populate(artifact_t.directory, repository=repository, version=7).version == 7
    assert newest_version(repository, NAME) == 7
    assert populate(artifact_t.directory, repository=repository).version == 8
    now = _contents(repository)
    kept = {path: data for path, data in first.items() if "/1/" in path}
    assert kept == {path: data for path, data in now.items() if "/1/" in path}
    assert "dims: 3" in now[f"{NAME}/2/config.pbtxt"].decode()
    assert now[f"{NAME}/config.pbtxt"] == now[f"{NAME}/8/config.pbtxt"]
    with pytest.raises(BadInput, match=r"version 7 is in .* already; next is 9"):
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
        "out = classification.network_inputs([decode_image(data)])['images'];"
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
    populate(artifact_t.directory, repository=repository, version=3, options=PopulateOptions(k=2))
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
        assert not list(repository.glob(".*"))
        assert (repository / NAME / "1").is_dir()


@pytest.mark.parametrize(
    "wrong",
    [
        {"network_instances": 0},
        {"preprocess_instances": -3},
        {"threads": -1},
        {"queue_delay_us": 10**9},
    ],
)
def test_placement_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="is outside"):
        pbtxt.Placement(**wrong)


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
        entry = file_record(converted, Precision(precision), made_from)
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
    options = PopulateOptions(limits=ImageLimits(max_pixels=1000))
    populate(artifact_t.directory, repository=tmp_path, options=options)
    content = (tmp_path / f"{NAME}_preprocess" / "warmup" / "sample.bytes").read_bytes()
    with Image.open(io.BytesIO(content[4:])) as image:
        assert 900 < image.width * image.height <= 1000
