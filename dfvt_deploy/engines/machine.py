"""What can build engines: TensorRT and its GPU here, or the container command that has both; and
what NVIDIA's Triton images hold, as data: `data/triton_releases.json`."""

import json
import re
import shlex
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from packaging.version import Version

from .. import __version__
from ..errors import BadInput, MissingDependency, StageFailed
from ..gpu.devices import LIBRARIES, Gpu, NotInstalled, Unavailable, find_gpu, load_library
from ..types import Flavor
from .options import BuildOptions

_FILE = Path(__file__).parent.parent / "data" / "triton_releases.json"

#: What is used where no release is named: one with the security fixes of 26.04 and later.
DEFAULT_RELEASE = "26.07"

#: What `--target` looks like.
_TARGET = re.compile(r"tritonserver:([0-9]{2}\.[0-9]{2})(-py3)?")


@dataclass(frozen=True)
class TritonRelease:
    """One release, such as 26.04: versions as far as known, and where they were read."""

    name: str
    tensorrt: str
    tensorrt_source: str
    onnxruntime: str
    onnxruntime_source: str

    @property
    def image(self) -> str:
        return f"nvcr.io/nvidia/tritonserver:{self.name}-py3"

    @property
    def builder_image(self) -> str:
        """The image with the same TensorRT and its Python package, which Triton's lacks."""
        return f"nvcr.io/nvidia/tensorrt:{self.name}-py3"

    def has_tensorrt(self, version: str) -> bool:
        """Whether a TensorRT version is the one of this release, as far as that is known."""
        known = Version(self.tensorrt).release
        return Version(version).release[: len(known)] == known


@cache
def triton_releases() -> dict[str, TritonRelease]:
    """Every known release by name, oldest first."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    releases = {}
    for name, row in sorted(content["releases"].items()):
        found = {key: content["sources"][row[key]] for key in row if key.endswith("_source")}
        releases[name] = TritonRelease(name, **(row | found))
    return releases


def triton_release(target: str) -> TritonRelease:
    """The release of `tritonserver:YY.MM`; BadInput where it is written otherwise, or not known."""
    found, releases = _TARGET.fullmatch(target), triton_releases()
    if found is None:
        raise BadInput(f"--target {target!r} is not tritonserver:YY.MM, as tritonserver:26.07")
    if found[1] not in releases:
        raise BadInput(
            f"what {target} holds is not known; known releases: {', '.join(releases)}. "
            f"Add it to {_FILE.name}, or build without --target inside that container"
        )
    return releases[found[1]]


#: The first TensorRT that has all that is used here of strongly typed networks.
LEAST_TENSORRT = "10.12"


def bindings(flavor: Flavor) -> Any:
    """The module with the Python API of a flavor of TensorRT. Raises MissingDependency where it is
    not installed, StageFailed where it is too old, or its libraries cannot be loaded."""
    library = LIBRARIES[flavor.value]
    try:
        module = load_library(library)
    except NotInstalled:
        raise MissingDependency(flavor.product, flavor.value) from None
    except Unavailable as error:
        raise StageFailed(str(error)) from error
    found, least = module.__version__, LEAST_TENSORRT
    if flavor is Flavor.TENSORRT and Version(found) < Version(least):
        raise StageFailed(f"TensorRT {found} is too old, the least is {least}; {library.install}")
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
    def inspects(self) -> bool:
        """Whether the engine runs here, so that its layers can be counted."""
        gpu, targets = self.gpu, self.targets
        return gpu is not None and (not targets or gpu.compute_capability in targets)

    def timing_cache(self, directory: Path | None) -> Path | None:
        """The file of TensorRT's measurements on this GPU; TensorRT-RTX measures nothing."""
        if directory is None or self.gpu is None or self.targets:
            return None
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", self.gpu.name).strip("-")
        return directory / f"{gpu}.sm{self.gpu.compute_capability}.{self.version}"


def machine_for(options: BuildOptions) -> Machine:
    """The machine that builds engines with these options. Raises BadInput where TensorRT-RTX does
    not build for a compute capability that was asked for, StageFailed where something is missing or
    does not fit, with the container command that builds all the engines of the options."""
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
        *("docker", "run", "--rm", "--gpus=all"),
        f"--volume={options.exports.resolve()}:{_MOUNTED}",
        *([f"--volume={kept.resolve()}:{_TIMING}"] if kept else []),
        *(release.builder_image, "bash", "-c"),
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
