"""Plans and their records on disk: everything that must not be loaded is refused with a reason."""

import json
import struct
from pathlib import Path

import pytest

from dfvt_deploy.artifact import file_record, open_artifact, update_manifest
from dfvt_deploy.engines.engine import engine_file_name, engines_of, open_engine, read_plan_header
from dfvt_deploy.engines.record import (
    BuildFlags,
    ComputeLayers,
    EngineRecord,
    ShapeProfile,
    record_path,
)
from dfvt_deploy.errors import ArtifactError
from dfvt_deploy.files import sha256_of
from dfvt_deploy.gpu.devices import LIBRARIES
from dfvt_deploy.names import ONNX_FILES
from dfvt_deploy.provenance import now
from dfvt_deploy.types import Flavor, Precision

from .engine_files import copied


def plan_bytes(flavor: Flavor = Flavor.TENSORRT, version=(10, 16, 1, 11), size=4096) -> bytes:
    header = LIBRARIES[flavor.value].magic + struct.pack("<IIIQ", 0, 2, 0, size) + bytes(version)
    return (header + bytes(range(256)) * (size // 256))[:size]


def write_engine(
    directory: Path, compute_capability="9.0", onnx=None, precision=Precision.FP16, **changes
) -> Path:
    """A plan of TensorRT with its record."""
    path = directory / engine_file_name(precision, Flavor.TENSORRT, compute_capability)
    path.write_bytes(plan_bytes())
    values = {
        "plan": path.name,
        "size": path.stat().st_size,
        "sha256": sha256_of(path),
        "flavor": Flavor.TENSORRT,
        "version": "10.16.1.11",
        "precision": precision,
        "gpu": "NVIDIA H100",
        "compute_capability": compute_capability,
        "flags": BuildFlags(optimization_level=3),
        "profile": {
            "images": ShapeProfile(
                min=(1, 224, 224, 3), opt=(8, 224, 224, 3), max=(16, 224, 224, 3)
            )
        },
        "source": ONNX_FILES[precision],
        "source_sha256": "0" * 64 if onnx is None else sha256_of(onnx),
        "network_layers": ComputeLayers(source="network", layers={"convolution": {"fp16": 9}}),
        "seconds": 1.0,
        "created": now(),
        "command": "dfvt-deploy build-trt m --precision=fp16",
    }
    record = EngineRecord.model_validate({**values, **changes})
    record_path(path).write_text(record.as_text())
    return path


def test_file_names_are_those_of_the_contract():
    assert engine_file_name(Precision.FP16, Flavor.TENSORRT, "12.0") == "model.fp16.sm120.plan"
    assert engine_file_name(Precision.INT8, Flavor.RTX) == "model.int8.rtx.plan"


def test_a_good_engine_opens(tmp_path):
    path = write_engine(tmp_path)
    engine = open_engine(path, runtime_version="10.16.1.11", compute_capability="9.0")
    assert engine.path == path
    assert engine.record.max_batch == 16


@pytest.mark.parametrize("flavor", Flavor)
def test_the_header_tells_flavor_and_version(tmp_path, flavor):
    (tmp_path / "m.plan").write_bytes(plan_bytes(flavor, (11, 0, 0, 114)))
    header = read_plan_header(tmp_path / "m.plan")
    assert (header.flavor, header.version) == (flavor, "11.0.0.114")
    assert header.is_of(flavor, "11.0.0.114")
    assert header.is_of(flavor, "11.0.0.370"), "a part of the version is one byte"
    assert not header.is_of(flavor, "11.1.0.114")


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "prefix":
        path.write_bytes(b'{"metadata": 1}' + content)
    elif how == "truncated":
        path.write_bytes(content[:1000])
    elif how == "cut to nothing":
        path.write_bytes(content[:10])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "another file":
        path.write_bytes(b"\x89PNG" + content[4:].replace(b"tftr", b"...."))
    elif how == "one bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "longer":
        path.write_bytes(content + b"\0")
    elif how == "no record":
        record_path(path).unlink()
    elif how == "record of a later release":
        content = json.loads(record_path(path).read_text())
        record_path(path).write_text(json.dumps({**content, "record_version": 2}))
    elif how == "record with more":
        content = json.loads(record_path(path).read_text())
        record_path(path).write_text(json.dumps({**content, "speed": 2}))
    elif how == "record too deep":
        record_path(path).write_text("[" * 100_000)
    elif how == "record cut":
        record_path(path).write_text(record_path(path).read_text()[:100])


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("prefix", "15 bytes stand in front of the plan"),
        ("truncated", "is cut off: 1000 of 4096 bytes; copy it again"),
        ("cut to nothing", "is cut off after 10 bytes"),
        ("empty", "is empty"),
        ("another file", "is no TensorRT plan: it starts with 89 50 4e 47"),
        ("one bit", "its SHA-256 differs from the one in"),
        ("longer", "its SHA-256 differs from the one in"),
        ("no record", "without its record nobody knows what model.fp16.sm90.plan was built from"),
        ("record of a later release", "has record version 2, this dfvt-deploy reads 1"),
        ("record with more", "speed: Extra inputs are not permitted"),
        ("record cut", "cannot be read"),
        ("record too deep", "nest deeper than"),
    ],
)
def test_damage_is_refused_with_what_to_do(tmp_path, how, reason):
    path = write_engine(tmp_path)
    damage(path, how)
    with pytest.raises(ArtifactError) as error:
        open_engine(path)
    assert reason in str(error.value)
    assert "again" in str(error.value)


def test_the_end_of_an_rtx_plan_is_missed_without_its_record(tmp_path):
    path = tmp_path / "model.fp16.rtx.plan"
    path.write_bytes(plan_bytes(Flavor.RTX, (1, 7, 1, 116))[:-1])
    with pytest.raises(ArtifactError, match="cut off: 4095 of 4096 bytes"):
        read_plan_header(path)


def test_a_record_under_another_name_is_refused(tmp_path):
    """As that of a float32 plan that is passed off as one of half precision."""
    path = write_engine(tmp_path)
    other = path.with_name("model.int8.sm90.plan")
    record_path(path).rename(record_path(other))
    path.rename(other)
    with pytest.raises(ArtifactError, match=r"is the record of model\.fp16\.sm90\.plan"):
        open_engine(other)


@pytest.mark.parametrize(
    ("version", "reason"),
    [("10.13.3.9", "cannot be loaded by 10.13.3.9"), ("11.0.0.114", "cannot be loaded by 11.0.0")],
)
def test_a_plan_of_another_version_is_refused(tmp_path, version, reason):
    path = write_engine(tmp_path)
    with pytest.raises(ArtifactError, match=reason) as error:
        open_engine(path, runtime_version=version)
    assert "was built by TensorRT 10.16.1.11" in str(error.value)
    assert "--target tritonserver:YY.MM" in str(error.value)


def test_the_plans_own_header_counts_more_than_its_record(tmp_path):
    path = write_engine(tmp_path, version="10.16.2.10")
    with pytest.raises(ArtifactError, match=r"built by TensorRT 10\.16\.1\.11, its record says"):
        open_engine(path)


def test_a_version_compatible_plan_loads_in_later_releases_of_its_major_version(tmp_path):
    flags = BuildFlags(optimization_level=3, version_compatible=True)
    path = write_engine(tmp_path, flags=flags)
    open_engine(path, runtime_version="10.17.0.0")
    for version in ("10.13.3.9", "11.0.0.114"):
        with pytest.raises(ArtifactError, match="cannot be loaded"):
            open_engine(path, runtime_version=version)


def test_another_gpu_is_refused_unless_the_engine_is_for_it_too(tmp_path):
    path = write_engine(tmp_path)
    with pytest.raises(ArtifactError, match=r"of compute capability 9\.0, this one has 8\.9"):
        open_engine(path, compute_capability="8.9")
    path = write_engine(tmp_path, flags=BuildFlags(optimization_level=3, hardware_compatible=True))
    open_engine(path, compute_capability="8.9")
    with pytest.raises(ArtifactError, match=r"8\.0 and later"):
        open_engine(path, compute_capability="7.5")


def test_a_changed_onnx_file_is_refused(tmp_path):
    source = tmp_path / "model.fp16.onnx"
    source.write_bytes(b"as it was built")
    path = write_engine(tmp_path, onnx=source)
    open_engine(path, source=source)
    source.write_bytes(b"as it is now")
    with pytest.raises(ArtifactError, match=r"was built from another model\.fp16\.onnx"):
        open_engine(path, source=source)


def test_a_profile_below_the_repositorys_max_batch_is_refused(tmp_path):
    record = open_engine(write_engine(tmp_path)).record
    record.require_batch(16)
    with pytest.raises(ArtifactError) as error:
        record.require_batch(64)
    assert "takes at most 16 images at once, the model's max_batch_size is 64" in str(error.value)
    assert "--max-batch 64" in str(error.value)


def listed(directory: Path, *plans: Path, source_sha256: str) -> None:
    def change(manifest):
        files = {
            **manifest.files,
            **{
                p.name: file_record(
                    p,
                    Precision.FP32,
                    "dfvt-deploy build-trt",
                    source_sha256=source_sha256,
                    flavor=Flavor.TENSORRT,
                )
                for p in plans
            },
        }
        return manifest.model_copy(update={"files": files})

    update_manifest(directory, change)


def test_all_engines_of_a_model_are_found(artifact_t, tmp_path):
    artifact = copied(artifact_t, tmp_path)
    with pytest.raises(ArtifactError, match="make one with: dfvt-deploy build-trt"):
        engines_of(artifact, Precision.FP32)
    source = artifact.onnx_path()
    plans = [
        write_engine(artifact.directory, capability, source, Precision.FP32)
        for capability in ("8.9", "9.0")
    ]
    sha256 = artifact.manifest.files["model.onnx"].sha256
    listed(artifact.directory, *plans, source_sha256=sha256)
    found = engines_of(open_artifact(artifact.directory), Precision.FP32)
    assert [engine.record.compute_capability for engine in found] == ["8.9", "9.0"]
    listed(artifact.directory, *plans, source_sha256="1" * 64)
    with pytest.raises(ArtifactError, match=r"was built from another model\.onnx"):
        engines_of(open_artifact(artifact.directory), Precision.FP32)
