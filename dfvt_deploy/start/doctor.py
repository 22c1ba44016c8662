"""`doctor`: what each command needs, whether this machine has it, and how to get it."""

import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from ..engines.machine import bindings
from ..errors import DfvtError
from ..gpu.devices import find_gpu
from ..serving.installation import EMBEDDED_VERSION, embedded_root, libpython_directory
from ..types import Flavor


@dataclass(frozen=True)
class Finding:
    """Whether one requirement of commands is met on this machine.

    found: what is there, such as a version; empty where the requirement is missing.
    commands: the commands that need it.
    fix: how to get what is missing, or what is wrong with what was found.
    optional: the commands also work without it, in part.
    """

    name: str
    found: str
    commands: str
    fix: str
    optional: bool = False


@dataclass(frozen=True)
class PackageRequirement:
    """A Python distribution, the extra of dfvt-deploy that installs it, and its commands."""

    distribution: str
    extra: str
    commands: str
    optional: bool = False


PACKAGES = (
    PackageRequirement("torch", "export", "export, models, explain, quickstart"),
    PackageRequirement("onnx", "export", "export, quickstart"),
    PackageRequirement("onnxscript", "export", "export, quickstart"),
    PackageRequirement("onnxsim", "export", "export, quickstart"),
    PackageRequirement("safetensors", "export", "export of safetensors checkpoints"),
    PackageRequirement("tritonclient", "client", "populate, predict, lint, bench, demo"),
    PackageRequirement("nvidia-modelopt", "convert", "convert --precision fp16", optional=True),
    PackageRequirement("jinja2", "validate", "validate, bench --html", optional=True),
    PackageRequirement("pycocotools", "validate", "validate --dataset coco", optional=True),
    PackageRequirement("openvino", "openvino", "export checked in OpenVINO", optional=True),
    PackageRequirement("nncf", "openvino", "convert --target openvino", optional=True),
    PackageRequirement("scikit-learn", "examples", "quickstart --example", optional=True),
    PackageRequirement("pyarrow", "batch", "batch", optional=True),
    PackageRequirement("ray", "ray", "batch --engine ray", optional=True),
    PackageRequirement("cuda-bindings", "tensorrt", "validate, serve of engines", optional=True),
)

#: Least compute capability that TensorRT 10.12 to 11 and TensorRT-RTX build for.
_LEAST_CAPABILITY = "7.5"


def doctor() -> list[Finding]:
    """Look for what the commands need on this machine, without changing or starting anything."""
    return [
        Finding("Python", sys.version.split()[0], "all", ""),
        *map(_package, PACKAGES),
        _onnxruntime(),
        *map(_tensorrt, Flavor),
        _tritonserver(),
        _libpython(),
        _shared_memory(),
        _gpu(),
        _docker(),
    ]


def _package(package: PackageRequirement) -> Finding:
    try:
        found, fix = metadata.version(package.distribution), ""
    except metadata.PackageNotFoundError:
        found, fix = "", f"pip install 'dfvt-deploy[{package.extra}]'"
    return Finding(package.distribution, found, package.commands, fix, package.optional)


def _tensorrt(flavor: Flavor) -> Finding:
    """TensorRT's Python package, which is imported to see that its libraries load."""
    found, fix = "", ""
    try:
        found = str(bindings(flavor).__version__)
    except DfvtError as error:
        fix = str(error)
    if not found and flavor is Flavor.TENSORRT:
        fix += "; or build in a container, whose command build-trt prints"
    commands = f"build-trt --flavor {flavor}; validate and serve (embedded) of its engines"
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
        fix = (
            "both have the same module: pip uninstall onnxruntime onnxruntime-gpu, then install one"
        )
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
    commands = "build-trt --flavor tensorrt, validate of engines, serve on a GPU"
    driver = Path("/proc/driver/nvidia/version")
    gpu = find_gpu()
    if gpu is not None:
        found = f"{gpu.name}, compute capability {gpu.compute_capability}"
        old = Version(gpu.compute_capability) < Version(_LEAST_CAPABILITY)
        fix = f"TensorRT needs compute capability {_LEAST_CAPABILITY} or later" if old else ""
    elif driver.is_file():
        found = ""
        fix = f"{driver.read_text().splitlines()[0]}: but CUDA finds no GPU; run nvidia-smi"
    else:
        found, fix = "", "no driver (libcuda.so.1); in a container, start it with --gpus=all"
    return Finding("NVIDIA GPU", found, commands, fix, optional=True)


def _docker() -> Finding:
    found = shutil.which("docker") or ""
    fix = ""
    if not Path("/var/run/docker.sock").exists() and "DOCKER_HOST" not in os.environ:
        found, fix = "", "no engine was found; serve --docker then only prints its command"
    return Finding("docker", found, "serve --docker", fix, optional=True)
