"""`populate --backend tensorrt`, and what a server without a GPU says to it.

TensorRT's plans are stand-ins with real headers and records (plans.py): nothing here reads further.
"""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dfvt_deploy.artifact import Artifact
from dfvt_deploy.engines.build import profile_of
from dfvt_deploy.engines.engine import open_engine
from dfvt_deploy.engines.options import BuildOptions
from dfvt_deploy.engines.record import read_record, record_path
from dfvt_deploy.errors import ArtifactError, BadInput, ServerFailed
from dfvt_deploy.files import sha256_of
from dfvt_deploy.precision.build_engines import build_trt
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving import config as pbtxt
from dfvt_deploy.serving import installation
from dfvt_deploy.serving.docker import docker_command
from dfvt_deploy.serving.layout import verify_repository
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve
from dfvt_deploy.serving.server_arguments import Ports
from dfvt_deploy.types import Task

from .plans import add_plan
from .test_cli import run

GPU = pbtxt.schema.ModelInstanceGroup.KIND_GPU


@pytest.fixture(scope="module")
def artifacts(artifact_t, segmentation_artifact_t, detection_artifact_t):
    found = (artifact_t, segmentation_artifact_t, detection_artifact_t)
    return {artifact.manifest.task: artifact for artifact in found}


@pytest.fixture
def exported(artifacts, tmp_path):
    """A copy of an exported model, to add plans to."""

    def copy(task: Task = Task.CLASSIFICATION) -> Artifact:
        artifact = artifacts[task]
        directory = tmp_path / "exports" / artifact.manifest.name
        shutil.copytree(artifact.directory, directory)
        return Artifact(directory, artifact.manifest)

    return copy


def _add(artifact: Artifact, shapes: BuildOptions | None = None, **options) -> Path:
    """A stand-in plan with the profile that build-trt would give it."""
    profile = profile_of(artifact.manifest, shapes or BuildOptions())
    spans = {name: [span.min, span.opt, span.max] for name, span in profile.items()}
    return add_plan(artifact.directory, spans, **options)


def _populate(artifact: Artifact, repository: Path, **options) -> pbtxt.schema.ModelConfig:
    populate(artifact.directory, repository=repository, backend="tensorrt", **options)
    return _config(repository, f"{artifact.manifest.name}_network")


def _config(repository: Path, model: str) -> pbtxt.schema.ModelConfig:
    return pbtxt.from_text((repository / model / "config.pbtxt").read_text())


@pytest.mark.parametrize("task", list(Task))
def test_every_task_is_served_by_its_plan(exported, tmp_path, task):
    artifact = exported(task)
    plan = _add(artifact)
    network = _populate(artifact, tmp_path / "r")
    assert (network.backend, network.default_model_filename) == ("tensorrt", plan.name)
    assert dict(network.cc_model_filenames) == {}
    assert [(group.kind, group.count) for group in network.instance_group] == [(GPU, 1)]
    assert not network.HasField("optimization")
    assert [i.name for i in network.input] == [spec.name for spec in artifact.manifest.inputs]
    onnx = populate(artifact.directory, repository=tmp_path / "onnx")
    same = _config(onnx.repository, network.name)
    assert (network.input, network.output) == (same.input, same.output)
    version = tmp_path / "r" / network.name / "1"
    assert (version / plan.name).read_bytes() == plan.read_bytes()
    assert (version / f"{plan.name}.json").read_bytes() == record_path(plan).read_bytes()
    assert not (version / "model.onnx").exists()
    for step in ("preprocess", "postprocess"):
        config = _config(tmp_path / "r", f"{artifact.manifest.name}_{step}")
        assert {group.kind for group in config.instance_group} == {
            pbtxt.schema.ModelInstanceGroup.KIND_CPU
        }
    verify_repository(tmp_path / "r")
    (version / plan.name).write_bytes(b"ftrt")
    with pytest.raises(ArtifactError, match="not the file that was populated"):
        verify_repository(tmp_path / "r")


def test_each_gpu_finds_its_own_plan_and_others_none(exported, tmp_path):
    artifact = exported()
    for capability in ("8.6", "9.0", "12.0"):
        _add(artifact, compute_capability=capability)
    network = _populate(artifact, tmp_path / "r")
    assert dict(network.cc_model_filenames) == {
        "8.6": "model.fp32.sm86.plan",
        "9.0": "model.fp32.sm90.plan",
        "12.0": "model.fp32.sm120.plan",
    }
    assert network.default_model_filename == ""
    files = set(network.cc_model_filenames.values())
    assert files <= {path.name for path in (tmp_path / "r" / network.name / "1").iterdir()}


def test_a_plan_for_all_gpus_is_there_for_the_rest(exported, tmp_path):
    artifact = exported()
    _add(artifact, compute_capability="8.6", hardware_compatible=True)
    _add(artifact, compute_capability="9.0")
    network = _populate(artifact, tmp_path / "r")
    assert network.default_model_filename == "model.fp32.sm86.plan"
    assert network.cc_model_filenames["9.0"] == "model.fp32.sm90.plan"


def test_a_batch_beyond_the_profile_is_refused(exported, tmp_path):
    artifact = exported()
    _add(artifact, BuildOptions(max_batch=8))
    _add(artifact, compute_capability="8.6")
    with pytest.raises(ArtifactError, match=r"at most 8 images .* is 64;.*--max-batch-size 8"):
        _populate(artifact, tmp_path / "r")
    assert not (tmp_path / "r").exists()
    network = _populate(artifact, tmp_path / "r", max_batch_size=8)
    assert network.max_batch_size == 8


def test_a_plan_that_takes_no_single_image_is_refused(exported, tmp_path):
    artifact = exported()
    _add(artifact, BuildOptions(min_batch=4))
    with pytest.raises(ArtifactError, match="at least 4 images at once, but a request may have 1"):
        _populate(artifact, tmp_path / "r")


def test_plans_that_are_missing_stale_or_changed_are_refused(exported, tmp_path):
    artifact = exported()
    with pytest.raises(ArtifactError, match=r"no TensorRT engine in fp32; .*build-trt"):
        _populate(artifact, tmp_path / "r")
    with pytest.raises(ArtifactError, match="no TensorRT engine in fp16"):
        _populate(artifact, tmp_path / "r", precision="fp16")
    _add(artifact, source_sha256="1" * 64)
    with pytest.raises(ArtifactError, match=r"built from another model\.onnx"):
        _populate(artifact, tmp_path / "r")
    plan = _add(artifact)
    plan.write_bytes(plan.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="is not the plan of its record"):
        _populate(artifact, tmp_path / "r")
    record = read_record(plan)
    record_path(plan).write_text(record.model_copy(update={"sha256": sha256_of(plan)}).as_text())
    with pytest.raises(ArtifactError, match="was changed since it was written"):
        _populate(artifact, tmp_path / "r")


def test_warmup_is_within_the_profile(exported, tmp_path):
    artifact = exported(Task.SEGMENTATION)
    _add(artifact, BuildOptions(min_size=(256, 512), max_size=(2048, 2048)))
    _add(artifact, BuildOptions(max_size=(2048, 2048)), compute_capability="8.6")
    (warmup,) = _populate(artifact, tmp_path / "r").model_warmup
    assert list(warmup.inputs["images"].dims) == [256, 512, 3]
    assert list(warmup.inputs["image_sizes"].dims) == [2]


def test_sizes_that_will_be_refused_are_announced(exported, tmp_path, capsys):
    artifact = exported(Task.DETECTION)
    _add(artifact, BuildOptions(max_size=(800, 800)))
    _populate(artifact, tmp_path / "r")
    assert "takes canvases of 32x32 to 800x800 only" in " ".join(capsys.readouterr().err.split())


def test_rtx_plans_are_taken_when_asked_for_and_never_by_nvidias_server(
    exported, tmp_path, monkeypatch
):
    artifact = exported()  # its plan is a real one
    built = build_trt(artifact.directory, precision="fp32", flavor="rtx")
    with pytest.raises(ArtifactError, match="no TensorRT engine in fp32"):
        _populate(artifact, tmp_path / "r")
    network = _populate(artifact, tmp_path / "r", flavor="rtx")
    assert network.default_model_filename == "model.fp32.rtx.plan"
    served = tmp_path / "r" / network.name / "1" / "model.fp32.rtx.plan"
    assert open_engine(served).record == built.record
    with pytest.raises(BadInput, match="TensorRT-RTX plan, which the tensorrt backend of nvcr"):
        docker_command(tmp_path / "r", "127.0.0.1", Ports())
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(binary.parent), prepend=":")
    with pytest.raises(BadInput, match="does not load"), serve(tmp_path / "r"):
        pass


def test_the_command_refuses_a_cpu(tmp_path):
    command = ["populate", "--backend", "tensorrt", "--device", "cpu"]
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert "--backend tensorrt runs on a GPU" in done.stderr


def test_a_server_without_a_gpu_says_what_is_missing(exported, tmp_path):
    artifact = exported()
    _add(artifact)
    _populate(artifact, tmp_path / "r")
    with (
        pytest.raises(ServerFailed, match=r"GPU.*--backend onnxruntime") as failed,
        serve(tmp_path / "r"),
    ):
        pass
    assert f"{artifact.manifest.name}_network: " in str(failed.value)


def test_the_backend_says_what_it_lacks(exported, tmp_path):
    """Past the server's own check for a GPU, the backend's."""
    artifact = exported()
    _add(artifact)
    network = _populate(artifact, tmp_path / "r")
    file = tmp_path / "r" / network.name / "config.pbtxt"
    file.write_text(file.read_text().replace("KIND_GPU", "KIND_CPU"))
    with pytest.raises(ServerFailed) as failed, serve(tmp_path / "r"):
        pass
    assert re.search(r"_network: .*tensorrt: no NVIDIA GPU can be used", str(failed.value))


DOUBLE = """
backend: "tensorrt"
max_batch_size: 8
default_model_filename: "model.plan"
input { name: "x" data_type: TYPE_FP32 dims: 3 }
output { name: "y" data_type: TYPE_FP32 dims: 3 }
dynamic_batching { max_queue_delay_microseconds: 20000 }
instance_group { kind: KIND_CPU count: 1 }
"""


@pytest.fixture
def doubling_server(tmp_path, monkeypatch):
    """The real server and backend over stand-ins for CUDA and TensorRT (fake_gpu.py), whose plan
    doubles and takes 4 images where the config promises 8."""
    site = tmp_path / "stand-ins"
    (site / "cuda" / "bindings").mkdir(parents=True)
    (site / "dfvt_gpu").mkdir()
    (site / "dfvt_gpu" / "__init__.py").write_text(
        "import ctypes, fake_gpu\nctypes.CDLL = fake_gpu.Driver\n"
    )
    shutil.copyfile(Path(__file__).parent / "fake_gpu.py", site / "fake_gpu.py")
    (site / "cuda" / "__init__.py").touch()
    (site / "cuda" / "bindings" / "__init__.py").touch()
    (site / "cuda" / "bindings" / "runtime.py").write_text(
        "import sys, fake_gpu\nsys.modules[__name__] = fake_gpu.Cuda()\n"
    )
    (site / "tensorrt.py").write_text(
        "import sys, fake_gpu\nfrom cuda.bindings import runtime\n"
        "sys.modules[__name__] = fake_gpu.TensorRT(runtime, [[(1, 3), (1, 3), (4, 3)]])\n"
    )
    lay_out = installation._lay_out_backends

    def with_stand_ins(root: Path, backends: Path) -> None:
        lay_out(root, backends)
        shutil.copytree(site, backends / "tensorrt", dirs_exist_ok=True)

    monkeypatch.setattr(installation, "_lay_out_backends", with_stand_ins)
    model = tmp_path / "repository" / "double"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(DOUBLE)
    (model / "1" / "model.plan").write_bytes(b"ftrt")
    with serve(tmp_path / "repository") as server:
        yield server


def test_the_backend_runs_batches_and_refuses_what_does_not_fit(doubling_server):
    def ask(number: int) -> bool:
        x = np.full((1 + number % 2, 3), number, np.float32)
        with TritonRunner("double", doubling_server.grpc_url) as runner:
            return np.array_equal(runner.infer({"x": x})["y"], 2 * x)

    assert all(map(ask, range(4)))
    with ThreadPoolExecutor(
        8
    ) as pool:  # a batch of more rows than the plan takes is run one by one
        assert all(pool.map(ask, range(40)))
    with (
        TritonRunner("double", doubling_server.http_url, "http") as runner,
        pytest.raises(BadInput, match=r"dimension 0 is 5, the plan takes 1\.\.4"),
    ):
        runner.infer({"x": np.zeros((5, 3), np.float32)})
