"""`doctor`: what this machine has and lacks for each command, and how to get it."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .errors import DfvtError
from .serving.installation import EMBEDDED_VERSION, embedded_root, libpython_directory


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
_PACKAGES = (
    ("torch", "export", "export, models, quickstart"),
    ("onnx", "export", "export, quickstart"),
    ("onnxscript", "export", "export, quickstart"),
    ("onnxsim", "export", "export, quickstart"),
    ("safetensors", "export", "export (safetensors checkpoints)"),
    ("tritonclient", "client", "populate, predict, quickstart"),
)


def doctor() -> list[Finding]:
    """Look at this machine; nothing is changed or started."""
    findings = [
        Finding("Python", sys.version.split()[0], "all", ""),
        *(_package(*package) for package in _PACKAGES),
        _onnxruntime(),
        _tritonserver(),
        _libpython(),
        _shared_memory(),
        _gpu(),
        _docker(),
    ]
    return findings


def _package(name: str, extra: str, commands: str) -> Finding:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = ""
    fix = "" if found else f"pip install 'dfvt-deploy[{extra}]'"
    return Finding(name, found, commands, fix)


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
    driver = Path("/proc/driver/nvidia/version")
    found = driver.read_text().splitlines()[0] if driver.is_file() else ""
    if not found and ctypes.util.find_library("cuda"):
        found = "libcuda"
    return Finding(
        "NVIDIA GPU", found, "serve on a GPU", "all commands work without one", optional=True
    )


def _docker() -> Finding:
    found = shutil.which("docker") or ""
    fix = ""
    if not Path("/var/run/docker.sock").exists() and "DOCKER_HOST" not in os.environ:
        fix = "no engine was found: without one the command is only printed"
    return Finding("docker", found, "serve --docker", fix, optional=True)
