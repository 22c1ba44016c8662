"""`serve --docker`: NVIDIA's container on the same repository."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..engines.releases import DEFAULT_RELEASE, triton_releases
from ..errors import BadInput, ServerFailed
from ..progress import note
from .layout import CONFIG, rtx_plans
from .server import RESTRICTED, Ports

#: A release with the security fixes that the embedded server lacks.
IMAGE = triton_releases()[DEFAULT_RELEASE].image


def docker_command(repository: Path, host: str, ports: Ports) -> list[str]:
    """The `docker run` that serves a repository, published on `host` with these ports.

    The repository is mounted read-only; its requirements.txt is installed as the container
    starts, since NVIDIA's image has no Pillow and no OpenCV.

    Raises:
        BadInput: there is no such repository, or the container cannot serve it.
    """
    if 0 in vars(ports).values():
        raise BadInput("--ephemeral-ports is not for --docker; choose --http-port and the others")
    configs = [path.read_text(encoding="utf-8") for path in repository.glob(f"*/{CONFIG}")]
    if not configs:
        raise BadInput(f"{repository} holds no model; make one with: dfvt-deploy populate")
    if plans := rtx_plans(repository):
        raise BadInput(
            f"{plans[0]} is a TensorRT-RTX plan, which NVIDIA's tensorrt backend does not load; "
            "populate with the plans of TensorRT"
        )
    gpus = any("KIND_GPU" in config for config in configs)
    publish = [
        f"--publish={host}:{port}:{inside}"
        for port, inside in ((ports.http, 8000), (ports.grpc, 8001), (ports.metrics, 8002))
    ]
    server = [
        "tritonserver",
        "--model-repository=/models",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        # The key is made inside the container, so that nobody outside knows it.
        f"--http-restricted-api={RESTRICTED}:dfvt-admin=$KEY",
        f"--grpc-restricted-protocol={RESTRICTED}:dfvt-admin=$KEY",
    ]
    script = (
        "pip install --quiet --requirement /models/requirements.txt && "
        "KEY=$(head -c 24 /dev/urandom | base64 | tr -d '+/=') && "
        f"exec {' '.join(server)}"
    )
    return [
        "docker",
        "run",
        "--rm",
        *(["--gpus=all"] if gpus else []),
        "--shm-size=1g",
        "--security-opt=no-new-privileges",
        *publish,
        f"--volume={repository.resolve()}:/models:ro",
        IMAGE,
        "bash",
        "-c",
        script,
    ]


def run(command: list[str]) -> None:
    """Run the container in the foreground where a Docker engine answers, else only say so.

    A signal that ends this process ends the container first.

    Raises:
        ServerFailed: the container ended with another status than 0.
    """
    if not _engine_answers():
        note("no Docker engine answers here, so the command was only printed")
        return
    container = subprocess.Popen(command)
    try:
        status = container.wait()
    except BaseException:
        container.terminate()  # docker hands the signal on
        container.wait()
        raise
    if status:
        raise ServerFailed(f"the container ended with status {status}")


def _engine_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0
