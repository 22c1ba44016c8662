"""`build_trt`: an exported model's ONNX file to an engine with its record."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.version import Version

from .. import __version__
from ..artifact import (
    MANIFEST,
    ONNX_FILES,
    FileRecord,
    Manifest,
    file_record,
    now,
    open_artifact,
    read_manifest,
    update_manifest,
)
from ..errors import ArtifactError, BadInput, DfvtError, MissingDependency, StageFailed
from ..files import cache_directory, sha256_of, staged
from ..progress import stage
from ..types import Precision
from .bindings import bindings, installed_version
from .builder import BuildTask, plan_from_onnx, rtx_compute_capabilities
from .gpu import Gpu, find_gpu
from .profiles import Shapes, Size, profile_of
from .record import (
    BuildFlags,
    Engine,
    EngineRecord,
    Flavor,
    engine_file_name,
    read_plan_header,
    record_path,
    record_text,
)
from .releases import DEFAULT_RELEASE, TritonRelease, triton_release

#: What TensorRT itself takes without being told.
DEFAULT_OPTIMIZATION_LEVEL = 3

#: Where a container of NVIDIA's sees the exported models.
_MOUNTED = "/exports"


def timing_cache_directory() -> Path:
    """Where TensorRT's measurements are kept unless another folder is given."""
    return cache_directory() / "timing"


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built.

    target: a release such as `tritonserver:26.07`, whose TensorRT the installed one must be.
    tf32: let float32 layers compute in TF32.
    optimization_level: 0 to 5; higher builds longer and may run faster.
    workspace_mib: most scratch memory of a layer; the GPU's memory without.
    hardware_compatible: for every GPU from compute capability 8.0 (slower).
    version_compatible: loads in later releases of the same major version too (slower).
    strip_weights: leave the weights out; the plan must be refitted before it is run.
    compute_capabilities: of the GPUs that a TensorRT-RTX engine is for; those from 8.0 on
        without.
    timing_cache: folder of measurements kept between builds; None keeps none.
    """

    flavor: Flavor = Flavor.TENSORRT
    target: str | None = None
    shapes: Shapes = field(default_factory=Shapes)
    tf32: bool = False
    optimization_level: int = DEFAULT_OPTIMIZATION_LEVEL
    workspace_mib: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    strip_weights: bool = False
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = field(default_factory=timing_cache_directory)

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise BadInput(f"optimization level {self.optimization_level} is outside 0..5")
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= 2**20:
            raise BadInput(f"workspace {self.workspace_mib} MiB is outside 1..{2**20}")
        if self.target is not None:
            triton_release(self.target)
        if self.flavor is Flavor.RTX:
            for option, given in (
                ("--target", self.target),
                ("--hardware-compatible", self.hardware_compatible),
                ("--version-compatible", self.version_compatible),
            ):
                if given:
                    raise BadInput(f"{option} is for --flavor tensorrt")
        elif self.compute_capabilities:
            raise BadInput("--compute-capability is for --flavor rtx; TensorRT builds for its GPU")

    @property
    def flags(self) -> BuildFlags:
        return BuildFlags(
            tf32=self.tf32,
            optimization_level=self.optimization_level,
            workspace_bytes=None if self.workspace_mib is None else self.workspace_mib * 2**20,
            hardware_compatible=self.hardware_compatible,
            version_compatible=self.version_compatible,
            weights_stripped=self.strip_weights,
        )

    def words(self) -> list[str]:
        """These options on the command line; what is the default is left out."""
        words = [] if self.flavor is Flavor.TENSORRT else [f"--flavor={self.flavor}"]
        words += [f"--target={self.target}"] if self.target else []
        for name in ("min_batch", "opt_batch", "max_batch"):
            if (count := getattr(self.shapes, name)) is not None:
                words.append(f"--{name.replace('_', '-')}={count}")
        for name in ("min_size", "opt_size", "max_size"):
            size: Size | None = getattr(self.shapes, name)
            if size is not None:
                words.append(f"--{name.replace('_', '-')}={size[0]}x{size[1]}")
        if self.optimization_level != DEFAULT_OPTIMIZATION_LEVEL:
            words.append(f"--optimization-level={self.optimization_level}")
        if self.workspace_mib is not None:
            words.append(f"--workspace={self.workspace_mib}")
        for name in ("tf32", "hardware_compatible", "version_compatible", "strip_weights"):
            words += [f"--{name.replace('_', '-')}"] if getattr(self, name) else []
        return [*words, *(f"--compute-capability={cc}" for cc in self.compute_capabilities)]


@dataclass(frozen=True)
class Machine:
    """What builds: the TensorRT found here, and its GPU. TensorRT-RTX needs none."""

    version: str
    gpu: Gpu | None


def build_trt(
    model: str | Path,
    *,
    precision: Precision | str = Precision.FP16,
    options: BuildOptions | None = None,
) -> Engine:
    """Build one engine of an exported model, beside its ONNX files, with a record of what it is.

    The plan and its record take their places when both are whole; what was there before stays
    when anything fails.

    Args:
        model: folder of the exported model (`exports/<name>`).

    Raises:
        ArtifactError: the export is missing, stale or was changed.
        BadInput: an option is out of range.
        StageFailed: something it needs is missing (with the container command that has it), the
            installed TensorRT is not the target's, an operator is not supported, the layers do
            not compute in the precision asked for, or the build failed.
    """
    options, precision = options or BuildOptions(), Precision(precision)
    artifact = open_artifact(model, precision)
    source = artifact.onnx_path(precision)
    profile = profile_of(artifact.manifest, options.shapes)
    machine = machine_for(
        options, artifact.directory.parent, [artifact.directory.name], precision.value
    )
    gpu = machine.gpu
    plan_name = engine_file_name(
        precision, options.flavor, gpu.compute_capability if gpu is not None else None
    )
    path = artifact.directory / plan_name
    task = BuildTask(
        onnx=source,
        name=artifact.manifest.name,
        precision=precision,
        flavor=options.flavor,
        profile=profile,
        flags=options.flags,
        targets=options.compute_capabilities,
        timing_cache=_timing_cache(options, machine),
    )
    with stage(f"{task.name}: building in {precision}"):
        plan = plan_from_onnx(task, _usable(gpu, options))
    with staged(path) as temporary, staged(record_path(path)) as temporary_record:
        temporary.write_bytes(plan.content)
        header = read_plan_header(temporary)
        if not header.is_of(options.flavor, machine.version):
            raise StageFailed(
                f"{options.flavor.product} {machine.version} built a plan that says "
                f"{header.flavor.product} {header.version}; please report it"
            )
        record = EngineRecord(
            plan=plan_name,
            size=len(plan.content),
            sha256=sha256_of(temporary),
            flavor=options.flavor,
            version=machine.version,
            precision=precision,
            gpu=gpu.name if gpu else None,
            compute_capability=gpu.compute_capability if gpu else None,
            target_compute_capabilities=_targets(options),
            flags=options.flags,
            profile=profile,
            source=source.name,
            source_sha256=artifact.manifest.files[source.name].sha256,
            target=options.target,
            network_layers=plan.network_layers,
            inspected_layers=plan.inspected_layers,
            seconds=round(plan.seconds, 2),
            created=now(),
            command=shlex.join(_command([artifact.directory.name], precision.value, options)),
        )
        temporary_record.write_text(record_text(record), encoding="utf-8")
        listed = file_record(temporary, precision, record.source_sha256)
        # Out of the list while it is replaced: listed with another hash the folder is refused.
        update_manifest(artifact.directory, lambda old: _without(old, record))
    update_manifest(artifact.directory, lambda old: _with(old, record, listed))
    return Engine(path, record)


@dataclass(frozen=True)
class Built:
    """How one engine of several went: the engine, or why there is none."""

    model: str
    precision: Precision
    engine: Engine | None = None
    error: DfvtError | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "precision": self.precision.value,
            "path": str(self.engine.path) if self.engine else None,
            "record": self.engine.record.model_dump(mode="json") if self.engine else None,
            "error": str(self.error) if self.error else None,
        }


def build_engines(
    models: Sequence[Path], precision: Precision | None, options: BuildOptions
) -> list[Built]:
    """Build for several models, past those that fail.

    Args:
        precision: None for every one that a model has an ONNX file of.
    """
    done = []
    for model in models:
        for each in _precisions(model) if precision is None else (precision,):
            try:
                engine = build_trt(model, precision=each, options=options)
                done.append(Built(model.name, each, engine))
            except DfvtError as error:
                done.append(Built(model.name, each, error=error))
    return done


def _precisions(model: Path) -> list[Precision]:
    """Those a model has an ONNX file of; float32 where that cannot be told, for its error."""
    try:
        files = read_manifest(model / MANIFEST).files
    except ArtifactError:
        return [Precision.FP32]
    return [each for each, name in ONNX_FILES.items() if name in files]


def machine_for(
    options: BuildOptions, exports: Path, models: Sequence[str], precision: str
) -> Machine:
    """What builds with these options here; the rest is for the message where nothing does.

    Raises:
        StageFailed: what is missing or does not fit, and the container command that has it.
    """
    if options.flavor is Flavor.RTX:
        version = bindings(Flavor.RTX).__version__
        known = rtx_compute_capabilities()
        for asked in options.compute_capabilities:
            if asked not in known:
                raise BadInput(
                    f"TensorRT-RTX {version} does not build for compute capability {asked}; "
                    f"it knows {', '.join(known)}"
                )
        return Machine(version, find_gpu())
    release = triton_release(options.target or f"tritonserver:{DEFAULT_RELEASE}")
    command = shlex.join(container_command(options, exports, models, precision, release))
    gpu = find_gpu()
    if gpu is None:
        without = "" if installed_version(Flavor.TENSORRT) else " and TensorRT is not installed"
        raise StageFailed(
            f"no NVIDIA GPU was found{without}; TensorRT builds on the kind of GPU that the engine "
            f"is for. On a machine with that GPU and NVIDIA's container toolkit run: {command}\n"
            "(or build for RTX GPUs, without a GPU: dfvt-deploy build-trt --flavor rtx)"
        )
    try:
        version = bindings(Flavor.TENSORRT).__version__
    except MissingDependency as error:
        raise StageFailed(f"{error}, or build the same engine in a container: {command}") from None
    if options.target is not None and not _fits(release, version, options):
        raise StageFailed(
            f"TensorRT {version} is installed, {options.target} holds {release.tensorrt}: it would "
            f"not load the engine. Build it with: {command}"
        )
    return Machine(version, gpu)


def container_command(
    options: BuildOptions,
    exports: Path,
    models: Sequence[str],
    precision: str,
    release: TritonRelease,
) -> list[str]:
    """The `docker run` that builds the same engines with the TensorRT of a release.

    Args:
        models: names under `exports`; none for all of them.
        precision: as on the command line, `all` included.
    """
    inside = _command(models, precision, options)
    # onnx prepares quantised files for TensorRT.
    packages = f"dfvt-deploy=={__version__}" + (" onnx" if precision in ("int8", "all") else "")
    script = f"pip install --quiet {packages} && exec {shlex.join(inside)}"
    return [
        "docker",
        "run",
        "--rm",
        "--gpus=all",
        f"--volume={exports.resolve()}:{_MOUNTED}",
        release.builder_image,
        "bash",
        "-c",
        f"{script} --exports={_MOUNTED}",
    ]


def _command(models: Sequence[str], precision: str, options: BuildOptions) -> list[str]:
    return ["dfvt-deploy", "build-trt", *models, f"--precision={precision}", *options.words()]


def _fits(release: TritonRelease, version: str, options: BuildOptions) -> bool:
    if release.has_tensorrt(version):
        return True
    built, served = Version(version), Version(release.tensorrt)
    return options.version_compatible and built.major == served.major and built <= served


def _usable(gpu: Gpu | None, options: BuildOptions) -> Gpu | None:
    """The GPU, if the engine to be built runs on it."""
    if gpu is None or options.flavor is Flavor.TENSORRT:
        return gpu
    return gpu if gpu.compute_capability in _targets(options) else None


def _targets(options: BuildOptions) -> tuple[str, ...]:
    """Compute capabilities that a TensorRT-RTX engine runs on: by default all it knows but 7.5,
    which takes an engine of its own with no float32 matrix product."""
    if options.flavor is Flavor.TENSORRT:
        return ()
    by_default = tuple(cc for cc in rtx_compute_capabilities() if cc != "7.5")
    return options.compute_capabilities or by_default


def _timing_cache(options: BuildOptions, machine: Machine) -> Path | None:
    """TensorRT-RTX measures nothing when it builds, so has nothing to keep."""
    if options.timing_cache is None or options.flavor is Flavor.RTX or machine.gpu is None:
        return None
    gpu = re.sub(r"[^A-Za-z0-9]+", "-", machine.gpu.name).strip("-")
    return options.timing_cache / f"{gpu}.sm{machine.gpu.compute_capability}.{machine.version}"


def _without(manifest: Manifest, record: EngineRecord) -> Manifest:
    source = manifest.files.get(record.source)
    if source is None or source.sha256 != record.source_sha256:
        raise StageFailed(f"{record.source} changed while {record.plan} was built; build it again")
    files = {key: value for key, value in manifest.files.items() if key != record.plan}
    return manifest.model_copy(update={"files": files})


def _with(manifest: Manifest, record: EngineRecord, listed: FileRecord) -> Manifest:
    return manifest.model_copy(update={"files": {**manifest.files, record.plan: listed}})
