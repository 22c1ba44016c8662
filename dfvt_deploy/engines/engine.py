"""An engine on disk: a plan, exactly as TensorRT serialised it, and the record beside it."""

from dataclasses import dataclass
from pathlib import Path

from ..artifact import Artifact, remake_remedy
from ..errors import ArtifactError
from ..files import sha256_of
from ..manifest import MANIFEST
from ..types import Flavor, Int8Target, Precision
from .plan_header import read_plan_header, truncated
from .record import EngineRecord, read_record, record_path


@dataclass(frozen=True)
class Engine:
    """A plan that was just verified against its record."""

    path: Path
    record: EngineRecord


def engine_file_name(
    precision: Precision, flavor: Flavor, compute_capability: str | None = None
) -> str:
    """`model.<precision>.sm<CC>.plan`, or `model.<precision>.rtx.plan`. The compute capability,
    such as "9.0", is that of the GPU on which a TensorRT engine is built."""
    if flavor is Flavor.RTX:
        return f"model.{precision}.rtx.plan"
    if compute_capability is None:
        raise ValueError("a TensorRT engine is built for one compute capability")
    return f"model.{precision}.sm{compute_capability.replace('.', '')}.plan"


def open_engine(
    path: Path,
    *,
    source: Path | None = None,
    runtime_version: str | None = None,
    compute_capability: str | None = None,
) -> Engine:
    """Verify a plan against its own header, its record, and what is to run it.

    source: the ONNX file that the plan must have been built from.
    runtime_version: the version of the TensorRT or TensorRT-RTX that will load the plan.
    compute_capability: such as "9.0"; that of the GPU that will run the plan.
    Raises ArtifactError where something does not fit, with what, and what to do.
    """
    header = read_plan_header(path)
    record = read_record(path)
    if record.plan != path.name:
        raise ArtifactError(
            f"{record_path(path)} is the record of {record.plan}; give the plan its name back, or "
            f"{remake_remedy(path)}"
        )
    size = path.stat().st_size
    if size < record.size:
        raise truncated(path, size, record.size)
    remedy = f"make it again with: {record.command}"
    product = record.flavor.product
    if size != record.size or sha256_of(path) != record.sha256:
        raise ArtifactError(
            f"{path} is not the plan of its record: its SHA-256 differs from the one in "
            f"{record_path(path).name}; {remedy}"
        )
    if not header.is_of(record.flavor, record.version):
        raise ArtifactError(
            f"{path} was built by {header.flavor.product} {header.version}, its record says "
            f"{product} {record.version}; {remedy}"
        )
    if source is not None and sha256_of(source) != record.source_sha256:
        raise ArtifactError(
            f"{path} was built from another {record.source} than {source} is now; {remedy}"
        )
    if runtime_version is not None and not record.loads_in(runtime_version):
        raise ArtifactError(
            f"{path} was built by {product} {record.version} and cannot be loaded by "
            f"{runtime_version}; {remedy} with that version, or for a container with --target "
            "tritonserver:YY.MM"
        )
    if compute_capability is not None and not record.runs_on(compute_capability):
        raise ArtifactError(
            f"{path} is for GPUs of compute capability {record.runs_where}, this one has "
            f"{compute_capability}; {remedy} on such a GPU"
        )
    return Engine(path, record)


def engines_of(
    artifact: Artifact, precision: Precision, flavor: Flavor = Flavor.TENSORRT
) -> tuple[Engine, ...]:
    """Every engine of a model in one precision, verified, by file name: one for each kind of GPU.
    Raises ArtifactError where there is none, or one is damaged or older than its ONNX file."""
    other = ("--flavor", flavor) if flavor is Flavor.RTX else ()
    command = artifact.command("build-trt", "--precision", precision, *other)
    files = artifact.manifest.files
    names = sorted(
        name
        for name, file in files.items()
        if file.flavor is flavor and file.precision is precision
    )
    if not names:
        raise ArtifactError(
            f"{artifact.directory} has no {flavor.product} engine in {precision}; "
            f"make one with: {command}"
        )
    source = artifact.onnx_path(precision, Int8Target.TENSORRT)
    for name in names:
        if files[name].source_sha256 != files[source.name].sha256:
            raise ArtifactError(
                f"{artifact.directory / name} was built from another {source.name}; "
                f"build it again with: {command}"
            )
    engines = tuple(open_engine(artifact.directory / name, source=source) for name in names)
    for engine in engines:
        if engine.record.sha256 != files[engine.path.name].sha256:
            raise ArtifactError(
                f"{engine.path} was changed since it was written: it is the plan of its record, "
                f"but not the one in {MANIFEST}; build it again with: {command}"
            )
    return engines
