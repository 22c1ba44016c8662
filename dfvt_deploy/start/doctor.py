"""`doctor`: what each command needs, whether this machine has it, and how to get it."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.version import Version

from ..cores import INT8_SETS, processor_field
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


#: Distributions, the extra that installs each, its commands, and whether these work without it.
_PACKAGES = (
    ("torch", "export", "export, models, explain, quickstart", False),
    ("onnx", "export", "export, quickstart", False),
    ("onnxscript", "export", "export, quickstart", False),
    ("onnxsim", "export", "export, quickstart", False),
    ("safetensors", "export", "export of safetensors checkpoints", False),
    ("tritonclient", "client", "populate, predict, lint, bench, demo", False),
    ("nvidia-modelopt", "convert", "convert --precision fp16", True),
    ("jinja2", "validate", "validate, bench --html", True),
    ("pycocotools", "validate", "validate --dataset coco", True),
    ("openvino", "openvino", "export checked in OpenVINO", True),
    ("nncf", "openvino", "convert --target openvino", True),
    ("scikit-learn", "examples", "quickstart --example", True),
    ("pyarrow", "batch", "batch", True),
    ("ray", "ray", "batch --engine ray", True),
    ("cuda-bindings", "tensorrt", "validate, serve of engines", True),
)

#: Least compute capability that TensorRT 10.12 to 11 and TensorRT-RTX build for.
_LEAST_CAPABILITY = "7.5"


def doctor() -> list[Finding]:
    """Look for what the commands need on this machine, without changing or starting anything."""
    python, fix = _tried(lambda: str(libpython_directory()))
    return [
        Finding("Python", sys.version.split()[0], "all", ""),
        *(_package(*package) for package in _PACKAGES),
        _onnxruntime(),
        *_instructions(),
        *map(_tensorrt, Flavor),
        _tritonserver(),
        Finding("libpython", python, "serve (embedded), quickstart", fix),
        _shared_memory(),
        _gpu(),
        _docker(),
    ]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _tried(find: Callable[[], str]) -> tuple[str, str]:
    """What is found, else how to get it."""
    try:
        return find(), ""
    except DfvtError as error:
        return "", str(error)


def _package(name: str, extra: str, commands: str, optional: bool) -> Finding:
    found = _version(name)
    fix = "" if found else f"pip install 'dfvt-deploy[{extra}]'"
    return Finding(name, found, commands, fix, optional)


def _tensorrt(flavor: Flavor) -> Finding:
    """TensorRT's Python package, which is imported to see that its libraries load."""
    found, fix = _tried(lambda: str(bindings(flavor).__version__))
    if not found and flavor is Flavor.TENSORRT:
        fix += "; or build in a container, whose command build-trt prints"
    commands = f"build-trt --flavor {flavor}; validate and serve (embedded) of its engines"
    return Finding(flavor.product, found, commands, fix, optional=True)


def _onnxruntime() -> Finding:
    found = [f"{n} {v}" for n in ("onnxruntime", "onnxruntime-gpu") if (v := _version(n))]
    both = "both have the same module: pip uninstall onnxruntime onnxruntime-gpu, then install one"
    none = "pip install 'dfvt-deploy[cpu]', or [gpu] on a machine with an NVIDIA GPU"
    commands = "export, serve (embedded), quickstart"
    return Finding("onnxruntime", " and ".join(found), commands, (none, "", both)[len(found)])


def _instructions() -> list[Finding]:
    """The instruction sets that pay for a precision; none where the processor names no sets."""
    flags = set(processor_field("flags").split())
    rows = (
        ("VNNI", INT8_SETS, "INT8 on CPUs", "no faster here; convert makes weights of 7 bits"),
        ("bfloat16", {"avx512_bf16", "amx_bf16"}, "populate --precision bf16", "use fp32 here"),
    )
    return [
        Finding(name, found, commands, "" if found else fix, optional=True)
        for name, sets, commands, fix in rows
        for found in [", ".join(sorted(sets & flags))]
        if flags
    ]


def _tritonserver() -> Finding:
    found = shutil.which("tritonserver") or ""
    if not found and embedded_root() is not None:
        found = f"embedded {EMBEDDED_VERSION}, loopback only"
    fix = "" if found else "pip install 'dfvt-deploy[server]' (Linux), or use serve --docker"
    return Finding("tritonserver", found, "serve, quickstart", fix)


def _shared_memory() -> Finding:
    directory = Path("/dev/shm")
    if not directory.is_dir():
        return Finding("/dev/shm", "", "serve", "mount a tmpfs there")
    free = shutil.disk_usage(directory).free
    fix = "" if free > 2**28 else "give it 256 MiB or more (docker run --shm-size=1g)"
    return Finding("/dev/shm", f"{free / 2**20:,.0f} MiB free", "serve", fix)


def _gpu() -> Finding:
    driver = Path("/proc/driver/nvidia/version")
    found, fix = "", "no driver (libcuda.so.1); in a container, start it with --gpus=all"
    if gpu := find_gpu():
        found = f"{gpu.name}, compute capability {gpu.compute_capability}"
        old = Version(gpu.compute_capability) < Version(_LEAST_CAPABILITY)
        fix = f"TensorRT needs compute capability {_LEAST_CAPABILITY} or later" if old else ""
    elif driver.is_file():
        fix = f"{driver.read_text().splitlines()[0]}: but CUDA finds no GPU; run nvidia-smi"
    commands = "build-trt --flavor tensorrt, validate of engines, serve on a GPU"
    return Finding("NVIDIA GPU", found, commands, fix, optional=True)


def _docker() -> Finding:
    reachable = Path("/var/run/docker.sock").exists() or "DOCKER_HOST" in os.environ
    found = shutil.which("docker") if reachable else None
    fix = "" if reachable else "no engine was found; serve --docker then only prints its command"
    return Finding("docker", found or "", "serve --docker", fix, optional=True)
