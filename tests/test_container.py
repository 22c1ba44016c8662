"""The Dockerfile, and what its image does when it starts: without a container, against the embedded
server. TensorRT's part runs with stand-in plans (plans.py), as nothing here builds real ones."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from dfvt_deploy.artifact import open_artifact
from dfvt_deploy.engines.build import profile_of
from dfvt_deploy.engines.engine import open_engine
from dfvt_deploy.engines.machine import DEFAULT_RELEASE, triton_releases
from dfvt_deploy.engines.options import BuildOptions
from dfvt_deploy.engines.record import read_record
from dfvt_deploy.errors import ArtifactError, ServerFailed, StageFailed
from dfvt_deploy.gpu.devices import Gpu
from dfvt_deploy.serving import container, http_api
from dfvt_deploy.serving.client import predict
from dfvt_deploy.serving.container import prepare, repository_to_serve
from dfvt_deploy.serving.installation import MALLOC
from dfvt_deploy.serving.options import PrepareOptions
from dfvt_deploy.serving.process import children_of
from dfvt_deploy.serving.repository import REQUIREMENTS, populate
from dfvt_deploy.serving.server import serve
from dfvt_deploy.types import Precision

from .fixtures import encoded, photograph
from .plans import RUNTIME, add_plan
from .test_cli import run
from .test_commands import ROOT

NAME = "dfvt_t_classification"
HOPPER = Gpu("Stand-in H100", "9.0")


@pytest.fixture
def exports(artifact_t, tmp_path) -> Path:
    shutil.copytree(artifact_t.directory, tmp_path / "exports" / NAME)
    return tmp_path / "exports"


def _plan(exports: Path, max_batch: int | None = None, **options) -> Path:
    profile = profile_of(open_artifact(exports / NAME).manifest, BuildOptions(max_batch=max_batch))
    spans = {name: [span.min, span.opt, span.max] for name, span in profile.items()}
    return add_plan(exports / NAME, spans, **options)


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU and TensorRT that builds stand-in plans; gives the list of builds."""
    builds = []

    def build(folder, precision, options):
        builds.append((folder, options.max_batch))
        return open_engine(_plan(folder.parent, options.max_batch, precision=precision))

    monkeypatch.setattr(container, "find_gpu", lambda: HOPPER)
    installed = SimpleNamespace(__version__=RUNTIME)
    monkeypatch.setattr(container, "bindings", lambda _flavor: installed)
    monkeypatch.setattr(container, "build_engine", build)
    return builds


def _options(exports: Path, **options) -> PrepareOptions:
    parent = exports.parent
    folders = {"exports": exports, "state": parent / "state", "repository": parent / "models"}
    return PrepareOptions(**folders, **{"precision": Precision.FP32, **options})


def test_decoders_keep_their_memory_as_in_the_embedded_server():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert {f"{name}={value}" for name, value in MALLOC.items()} <= set(dockerfile.split())


def test_without_a_gpu_nothing_falls_back_in_silence(exports):
    with pytest.raises(StageFailed, match=r"--gpus=all, .*DFVT_BACKEND=onnxruntime"):
        prepare(_options(exports), exports.parent / "r")


def test_an_engine_is_built_once_and_found_at_the_next_start(exports, gpu, tmp_path):
    options = _options(exports)
    first = repository_to_serve(options)
    assert first == tmp_path / "state" / "model_repository"
    assert gpu == [(exports / NAME, 64)]
    assert repository_to_serve(options) == first
    assert len(gpu) == 1
    plans = list(first.glob("*_network/*/*.plan"))
    assert [path.name for path in plans] == ["model.fp32.sm90.plan"]
    assert plans[0].parent.name == "1"


@pytest.mark.parametrize(
    "there",
    [
        {"compute_capability": "8.6"},
        {"version": "10.16.1.11"},
        {"max_batch": 8},
        {"source_sha256": "1" * 64},
    ],
)
def test_an_engine_that_does_not_fit_is_built_again_and_served_alone(exports, gpu, tmp_path, there):
    _plan(exports, **there)
    repository = repository_to_serve(_options(exports))
    assert len(gpu) == 1
    (plan,) = repository.glob("*_network/*/*.plan")
    record = read_record(plan)
    assert (record.compute_capability, record.version, record.max_batch) == ("9.0", RUNTIME, 64)


def test_a_batch_size_reaches_engine_and_repository(exports, gpu, tmp_path):
    repository = repository_to_serve(_options(exports, max_batch_size=16))
    assert gpu == [(exports / NAME, 16)]
    assert "max_batch_size: 16" in (repository / f"{NAME}_network" / "config.pbtxt").read_text()


def test_exports_that_cannot_be_written_are_copied_once(exports, gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _mode: exports not in Path(path).parents)
    options = _options(exports)
    for _ in range(2):
        repository_to_serve(options)
    copy = tmp_path / "state" / "exports" / NAME
    assert gpu == [(copy, 64)]
    assert not list(exports.glob("*/*.plan"))
    manifest = open_artifact(exports / NAME).manifest
    changed = manifest.model_copy(update={"command": "another"})
    (exports / NAME / "model.onnx").write_bytes(b"another model")
    entry = container.read_manifest(exports / NAME / "manifest.json").files["model.onnx"]
    entry = entry.model_copy(update={"sha256": "2" * 64})
    changed = changed.model_copy(update={"files": {"model.onnx": entry}})
    (exports / NAME / "manifest.json").write_text(changed.model_dump_json())
    with pytest.raises(ArtifactError):  # the copy is that of the changed model now
        repository_to_serve(options)
    assert (copy / "model.onnx").read_bytes() == b"another model"


def test_the_made_repository_cannot_be_written(exports, gpu, tmp_path):
    repository = repository_to_serve(_options(exports))
    modes = [path.stat().st_mode for path in (repository, *repository.rglob("*"))]
    assert not any(mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) for mode in modes)


def test_a_mounted_repository_is_served_as_it_is(artifact_t, exports, tmp_path):
    populate(artifact_t.directory, repository=tmp_path / "models")
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*"))
    # The image sets the backend, whatever is mounted.
    assert repository_to_serve(_options(exports)) == tmp_path / "models"
    after = sorted(path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*"))
    assert before == after
    assert not (tmp_path / "state").exists()


def test_names_choose_models(exports, gpu, tmp_path):
    shutil.copytree(exports / NAME, exports / "other")
    done = prepare(_options(exports, models=f" {NAME}, "), tmp_path / "models")
    assert [model.name for model in done] == [NAME]


def test_the_bindings_are_those_of_the_library(monkeypatch):
    class Library:
        def __init__(self, name):
            if name != "libnvinfer.so.10":
                raise OSError(name)

        def getInferLibVersion(self):
            return 101601

    monkeypatch.setattr(container.ctypes, "CDLL", Library)
    assert container.tensorrt_requirement() == "tensorrt-cu13-bindings==10.16.1.*"
    monkeypatch.undo()
    with pytest.raises(StageFailed, match=r"libnvinfer\.so\.11"):
        container.tensorrt_requirement()


def _free_ports() -> list[int]:
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_the_image_starts_answers_and_ends(exports, tmp_path):
    """The whole of it, with onnxruntime."""
    http, grpc, metrics = _free_ports()
    command = [sys.executable, "-m", "dfvt_deploy", "container", "start"]
    ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    environment = {
        "DFVT_EXPORTS": str(exports),
        "DFVT_STATE": str(tmp_path / "state"),
        "DFVT_REPOSITORY": str(tmp_path / "models"),
        "DFVT_BACKEND": "onnxruntime",
        "DFVT_HOST": "127.0.0.1",
    }
    (tmp_path / "a.png").write_bytes(encoded(photograph(60, 40), "PNG"))
    with subprocess.Popen(
        [*command, *ports],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not container.is_ready(f"127.0.0.1:{http}"):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            health = ["container", "health", "--url", f"127.0.0.1:{http}"]
            assert run(*health, environment=environment).returncode == 0
            answer = next(predict([tmp_path / "a.png"], NAME, url=f"127.0.0.1:{grpc}"))
            assert len(answer.outputs["labels"]) == 5
            output = process.stdout.readline() + process.stdout.readline()  # once it serves
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, log
    assert f"{NAME}: onnxruntime, fp32" in log
    assert "successfully loaded" in log  # Triton's own words
    assert NAME in output
    assert run("container", "health", "--url", f"127.0.0.1:{http}").returncode == 5


def test_health_is_an_answer_of_every_model(repository, monkeypatch):
    monkeypatch.setattr(container, "_HEALTH_TIMEOUT_S", 5)
    with serve(repository) as server:
        container.check_health(server.http_url, repository)
        (step,) = (
            pid
            for pid in children_of(server.pid)
            if f"{NAME}_postprocess" in Path(f"/proc/{pid}/cmdline").read_text()
        )
        os.kill(step, signal.SIGKILL)
        assert http_api.is_ready(server.http_url)
        with pytest.raises(ServerFailed):
            container.check_health(server.http_url, repository)


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_serves_what_the_dockerfile_makes():
    folder = ROOT / "deploy"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    targets = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert targets == ["wheel", "cpu", "gpu"]
    for service in compose["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (folder / source).exists()
    scraped = yaml.safe_load((folder / "compose" / "prometheus.yaml").read_text())
    (job,) = scraped["scrape_configs"]
    alerts = (folder / "monitoring" / "alerts.yaml").read_text()
    assert f'job="{job["job_name"]}"' in alerts


def test_the_dockerfile_says_what_the_package_does():
    text = (ROOT / "Dockerfile").read_text()
    (release,) = re.findall(r"^ARG TRITON_RELEASE=(.*)$", text, re.M)
    assert release == DEFAULT_RELEASE
    assert release in triton_releases()
    assert min(triton_releases()) >= "26.04"
    assert re.findall(r"^USER (\S+)$", text, re.M)[-1].split(":")[0] not in ("root", "0")
    requirements = (ROOT / "docker" / "requirements.txt").read_text()
    assert requirements.endswith(REQUIREMENTS)
    ignored = (ROOT / ".dockerignore").read_text()
    for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M):
        for name in copied.split():
            assert (ROOT / name).exists()
            assert f"!{Path(name).parts[0]}\n" in ignored
