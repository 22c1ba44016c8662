"""`serve --docker`: NVIDIA's container on the same repository."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..engines.machine import DEFAULT_RELEASE, triton_releases
from ..errors import ArtifactError, BadInput, ServerFailed
from ..progress import note
from .layout import CACHE, CONFIG, models_of, refuse_rtx_plans, verify_repository
from .server_arguments import SUMMARIES, Ports, restrictions

#: A release with the security fixes that the embedded server lacks.
IMAGE = triton_releases()[DEFAULT_RELEASE].image

#: The packages of the Python steps, as they were tested, for the Python of the image.
_PACKAGES = "numpy==1.26.4 pillow==12.0.0 opencv-python-headless==4.11.0.86"

#: Largest request over HTTP; images of one request are as many as a batch holds.
_MAX_REQUEST_BYTES = 256 * 2**20


def docker_command(
    repository: Path, host: str, ports: Ports, monitoring: Sequence[str] = SUMMARIES
) -> list[str]:
    """The `docker run` that serves a repository, published on `host` with these ports.

    The models are mounted read-only, and nobody can steer the server. The container runs as an
    ordinary user without capabilities on a read-only file system; the packages of the Python steps,
    which NVIDIA's image lacks, are installed into its memory as it starts. Raises ArtifactError
    where a file was changed since it was populated, BadInput where there is no such repository, or
    the container cannot serve it.
    """
    if 0 in vars(ports).values():
        raise BadInput("--ephemeral-ports is not for --docker; choose --http-port and the others")
    repository = repository.resolve()
    models = models_of(repository)
    refuse_rtx_plans(repository, IMAGE)
    verify_repository(repository)
    if caches := sorted(repository.rglob(CACHE)):
        raise ArtifactError(f"{caches[0]} holds compiled code, which is not verified; remove it")
    configs = [(repository / name / CONFIG).read_text(encoding="utf-8") for name in models]
    gpus = any("KIND_GPU" in config for config in configs)
    published = zip(vars(ports).values(), vars(Ports()).values(), strict=True)
    # No header can hold a line break, so nobody has the key.
    closed = " ".join(f'"{words}"' for words in restrictions(host, "$KEY"))
    script = (
        "pip install --quiet --no-cache-dir --only-binary=:all: --target=/tmp/packages "
        f"{_PACKAGES} && KEY=$(printf '\\n\\n-') && exec \"$@\" {closed}"
    )
    return [
        "docker",
        "run",
        "--rm",
        *(["--gpus=all"] if gpus else []),
        "--user=10001:10001",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--read-only",
        "--tmpfs=/tmp:exec",
        "--shm-size=1g",
        "--env=HOME=/tmp",
        "--env=PYTHONPATH=/tmp/packages",
        *(f"--publish={host}:{port}:{default}" for port, default in published),
        *(f"--volume={repository / name}:/models/{name}:ro" for name in models),
        IMAGE,
        "bash",
        "-c",
        script,
        "serve",
        "tritonserver",
        "--model-repository=/models",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        f"--http-max-input-size={_MAX_REQUEST_BYTES}",
        *monitoring,
    ]


def run(command: list[str]) -> None:
    """Run the container in the foreground where a Docker engine answers, else only say so. A signal
    that ends this process ends the container first. Raises ServerFailed where that failed."""
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "info"], capture_output=True).returncode
    ):
        note("no Docker engine answers here, so the command was only printed")
        return
    container = subprocess.Popen(command, stdout=2)  # stdout is for the command of --json
    try:
        status = container.wait()
    except BaseException:
        container.terminate()  # docker hands the signal on
        container.wait()
        raise
    if status:
        raise ServerFailed(f"the container ended with status {status}")
