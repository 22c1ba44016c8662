"""What can build engines here: TensorRT and its GPU, or the container command that has both."""

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.version import Version

from .. import __version__
from ..errors import BadInput, MissingDependency, StageFailed
from ..gpu.devices import Gpu, find_gpu
from ..gpu.errors import NotInstalled, Unavailable
from ..gpu.libraries import LIBRARIES, load_library
from ..types import Flavor
from .options import BuildOptions
from .releases import DEFAULT_RELEASE, TritonRelease, triton_release

#: The first TensorRT that has all that is used here of strongly typed networks.
LEAST_TENSORRT = "10.12"


def bindings(flavor: Flavor) -> Any:
    """The module with the Python API of a flavor of TensorRT. Raises MissingDependency where it is
    not installed, StageFailed where it is too old, or its libraries cannot be loaded."""
    try:
        module = load_library(LIBRARIES[flavor.value])
    except NotInstalled:
        raise MissingDependency(flavor.product, flavor.value) from None
    except Unavailable as error:
        raise StageFailed(str(error)) from error
    found = module.__version__
    if flavor is Flavor.TENSORRT and Version(found) < Version(LEAST_TENSORRT):
        raise StageFailed(
            f"TensorRT {found} is too old, the least is {LEAST_TENSORRT}; "
            f"{LIBRARIES[flavor.value].install}"
        )
    return module


#: Where the exported models are seen inside NVIDIA's container.
_MOUNTED = Path("/exports")

#: Where TensorRT's measurements are kept inside it.
_TIMING = Path("/timing")


@dataclass(frozen=True)
class Machine:
    """The installed TensorRT that builds, and its GPU. TensorRT-RTX needs no GPU, and builds for
    the compute capabilities `targets`, which are empty for TensorRT."""

    version: str
    gpu: Gpu | None
    targets: tuple[str, ...] = ()

    @property
    def inspecting_gpu(self) -> Gpu | None:
        """The GPU, if a TensorRT-RTX engine for `targets`, or any TensorRT engine, runs on it."""
        if self.gpu is None or not self.targets or self.gpu.compute_capability in self.targets:
            return self.gpu
        return None

    def timing_cache(self, directory: Path | None) -> Path | None:
        """The file of TensorRT's measurements on this GPU; TensorRT-RTX measures nothing."""
        if directory is None or self.gpu is None or self.targets:
            return None
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", self.gpu.name).strip("-")
        return directory / f"{gpu}.sm{self.gpu.compute_capability}.{self.version}"


def machine_for(options: BuildOptions) -> Machine:
    """The machine that builds engines with these options.

    Raises BadInput where TensorRT-RTX does not build for a compute capability that was asked for,
    StageFailed where something is missing or does not fit, with the container command that builds
    all the engines of the options.
    """
    if options.flavor is Flavor.RTX:
        return _rtx_machine(options)
    release = triton_release(options.target or f"tritonserver:{DEFAULT_RELEASE}")
    command = shlex.join(container_command(options, release))
    gpu = find_gpu()
    if gpu is None:
        raise StageFailed(
            "no NVIDIA GPU was found; TensorRT builds on the kind of GPU that the engine is for. "
            f"On a machine with that GPU and NVIDIA's container toolkit run: {command}",
            f"(or build for RTX GPUs, without a GPU: {options.for_rtx().command_line()})",
        )
    try:
        version = bindings(Flavor.TENSORRT).__version__
    except MissingDependency as error:
        raise StageFailed(f"{error}, or build in a container: {command}") from None
    built, served = Version(version), Version(release.tensorrt)
    upward = options.version_compatible and built.major == served.major and built <= served
    if options.target is not None and not (release.has_tensorrt(version) or upward):
        raise StageFailed(
            f"TensorRT {version} is installed, {options.target} holds {release.tensorrt}: it would "
            f"not load the engine. Build it with: {command}"
        )
    return Machine(version, gpu)


def container_command(options: BuildOptions, release: TritonRelease) -> list[str]:
    """The `docker run` command that builds the same engines with the TensorRT of a release."""
    kept = options.timing_cache_folder
    inside = replace(options, exports=_MOUNTED, timing_cache_folder=kept and _TIMING)
    # onnx reads quantised files before they are built.
    packages = f"dfvt-deploy=={__version__}"
    packages += " onnx" if options.precision in ("int8", "all") else ""
    return [
        "docker",
        "run",
        "--rm",
        "--gpus=all",
        f"--volume={options.exports.resolve()}:{_MOUNTED}",
        *([f"--volume={kept.resolve()}:{_TIMING}"] if kept else []),
        release.builder_image,
        "bash",
        "-c",
        f"pip install --quiet {packages} && exec {inside.command_line()}",
    ]


def _rtx_machine(options: BuildOptions) -> Machine:
    rtx = bindings(Flavor.RTX)
    version, names = rtx.__version__, rtx.ComputeCapability.__members__
    known = [f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM")]
    for asked in options.compute_capability:
        if asked not in known:
            raise BadInput(
                f"TensorRT-RTX {version} does not build for compute capability {asked}; "
                f"it knows {', '.join(known)}"
            )
    # 7.5 takes an engine of its own, with no float32 matrix product.
    by_default = tuple(each for each in known if each != "7.5")
    return Machine(
        version, find_gpu(), tuple(dict.fromkeys(options.compute_capability)) or by_default
    )
