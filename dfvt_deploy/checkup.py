"""`doctor`: what this machine has and lacks for each command, and how to get it."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from .engines.bindings import bindings
from .engines.gpu import find_gpu
from .errors import DfvtError
from .serving.installation import EMBEDDED_VERSION, embedded_root, libpython_directory
from .types import Flavor


@dataclass(frozen=True)
class Finding:
    """One thing that commands need. `found` is empty where it is missing; `fix` says how to get
    it, or what is wrong with what was found. What is `optional` makes a command better, not
    possible."""

    name: str
    found: str
    commands: str
    fix: str
    optional: bool = False


#: Distribution, the extra that brings it, the commands that need it.
_PACKAGES: tuple[tuple[str, str, str], ...] = (
    ("torch", "export", "export, models, quickstart"),
    ("onnx", "export", "export, quickstart"),
    ("onnxscript", "export", "export, quickstart"),
    ("onnxsim", "export", "export, quickstart"),
    ("safetensors", "export", "export (safetensors checkpoints)"),
    ("tritonclient", "client", "populate, predict, quickstart"),
)

#: The same, of packages that only some precisions, backends or data sets need.
_OPTIONAL_PACKAGES: tuple[tuple[str, str, str], ...] = (
    ("nvidia-modelopt", "convert", "convert --precision fp16"),
    ("pycocotools", "validate", "validate --dataset coco"),
    ("cuda-bindings", "tensorrt", "running TensorRT engines here: validate, bench, serve"),
)

#: Least compute capability that TensorRT 10.12 to 11 and TensorRT-RTX build for.
_LEAST_CAPABILITY = "7.5"


def doctor() -> list[Finding]:
    """Look at this machine; nothing is changed or started."""
    findings = [
        Finding("Python", sys.version.split()[0], "all", ""),
        *(_package(*package) for package in _PACKAGES),
        *(_package(*package, optional=True) for package in _OPTIONAL_PACKAGES),
        _onnxruntime(),
        *(_tensorrt(flavor) for flavor in Flavor),
        _tritonserver(),
        _libpython(),
        _shared_memory(),
        _gpu(),
        _docker(),
    ]
    return findings


def _package(name: str, extra: str, commands: str, optional: bool = False) -> Finding:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = ""
    fix = "" if found else f"pip install 'dfvt-deploy[{extra}]'"
    return Finding(name, found, commands, fix, optional)


def _tensorrt(flavor: Flavor) -> Finding:
    """TensorRT's Python package as it really imports, libraries and all."""
    found, fix = "", ""
    try:
        found = str(bindings(flavor).__version__)
    except DfvtError as error:
        fix = str(error)
    if not found and flavor is Flavor.TENSORRT:
        fix += "; or build in a container, whose command build-trt prints"
    commands = f"build-trt --flavor {flavor}; validate, bench and serve (embedded) of its engines"
    return Finding(flavor.product, found, commands, fix, optional=True)


def _onnxruntime() -> Finding:
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    fix = "pip install 'dfvt-deploy[cpu]', or [gpu] on a machine with an NVIDIA GPU"
    if len(found) > 1:
        fix = "both are one import: pip uninstall onnxruntime onnxruntime-gpu, then install one"
    return Finding(
        "onnxruntime",
        " and ".join(found),
        "export, serve (embedded), quickstart",
        fix if len(found) != 1 else "",
    )


def _tritonserver() -> Finding:
    if binary := shutil.which("tritonserver"):
        found = binary
    elif embedded_root() is not None:
        found = f"embedded {EMBEDDED_VERSION}, loopback only"
    else:
        found = ""
    fix = "" if found else "pip install 'dfvt-deploy[server]' (Linux), or use serve --docker"
    return Finding("tritonserver", found, "serve, quickstart", fix)


def _libpython() -> Finding:
    try:
        found, fix = str(libpython_directory()), ""
    except DfvtError as error:
        found, fix = "", str(error)
    return Finding("libpython", found, "serve (embedded), quickstart", fix)


def _shared_memory() -> Finding:
    directory = Path("/dev/shm")
    if not directory.is_dir():
        return Finding("/dev/shm", "", "serve", "mount a tmpfs there")
    free = shutil.disk_usage(directory).free
    fix = "" if free > 2**28 else "give it 256 MiB or more (docker run --shm-size=1g)"
    return Finding("/dev/shm", f"{free / 2**20:,.0f} MiB free", "serve", fix)


def _gpu() -> Finding:
    commands = "build-trt (TensorRT), validate and bench of engines, serve on a GPU"
    driver = Path("/proc/driver/nvidia/version")
    gpu = find_gpu()
    if gpu is not None:
        found = f"{gpu.name}, compute capability {gpu.compute_capability}"
        old = Version(gpu.compute_capability) < Version(_LEAST_CAPABILITY)
        fix = f"TensorRT needs compute capability {_LEAST_CAPABILITY} or later" if old else ""
    elif driver.is_file():
        found = ""
        fix = f"{driver.read_text().splitlines()[0]}: but CUDA finds no GPU; look at nvidia-smi"
    else:
        found, fix = "", "no driver (libcuda.so.1); in a container, start it with --gpus=all"
    return Finding("NVIDIA GPU", found, commands, fix, optional=True)


def _docker() -> Finding:
    found = shutil.which("docker") or ""
    fix = ""
    if not Path("/var/run/docker.sock").exists() and "DOCKER_HOST" not in os.environ:
        fix = "no engine was found: without one the command is only printed"
    return Finding("docker", found, "serve --docker", fix, optional=True)
