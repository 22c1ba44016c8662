"""An engine on disk: a plan, exactly as TensorRT serialised it, and the record beside it.

A plan's first bytes say what built it: four bytes that differ between TensorRT and TensorRT-RTX;
bytes 24 to 27 are the four parts of the version.
"""

from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from ..artifact import Artifact, remake_remedy
from ..errors import ArtifactError
from ..files import sha256_of
from ..gpu.devices import LIBRARIES
from ..manifest import MANIFEST
from ..types import Flavor, Int8Target, Precision
from .record import EngineRecord, read_record, record_path

#: Bytes of a plan up to and with its version.
_HEADER = 28

#: How many bytes of a file are searched for the start of a plan.
_SEARCHED = 2**20

_FLAVORS = {LIBRARIES[flavor.value].magic: flavor for flavor in Flavor}


@dataclass(frozen=True)
class PlanHeader:
    """What a plan says of itself."""

    flavor: Flavor
    version: str

    def is_of(self, flavor: Flavor, version: str) -> bool:
        """Whether this TensorRT version writes this header, which has one byte for each part."""
        parts = [part % 256 for part in Version(version).release]
        return self.flavor is flavor and self.version == ".".join(map(str, (parts + [0] * 4)[:4]))


def read_plan_header(path: Path) -> PlanHeader:
    """Flavor and version from the first bytes of a plan. Raises ArtifactError where the file is no
    plan, something stands in front of the plan, or its end is missing."""
    try:
        with path.open("rb") as file:
            start = file.read(_SEARCHED)
        size = path.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    remedy = remake_remedy(path)
    if not start:
        raise ArtifactError(f"{path} is empty; {remedy}")
    flavor = _FLAVORS.get(start[:4])
    if flavor is None:
        ahead = min((at for magic in _FLAVORS if (at := start.find(magic)) > 0), default=0)
        if ahead:
            raise ArtifactError(
                f"{path}: {ahead} bytes stand in front of the plan; TensorRT and Triton read the "
                f"raw plan only. Remove them (tail --bytes=+{ahead + 1}), or {remedy}"
            )
        first = start[:4].hex(" ")
        raise ArtifactError(f"{path} is no TensorRT plan: it starts with {first}; {remedy}")
    if len(start) < _HEADER:
        raise ArtifactError(f"{path} is cut off after {size} bytes; {remedy}")
    if flavor is Flavor.RTX:  # the field that holds the size was never seen in TensorRT's plans
        _require_size(path, size, int.from_bytes(start[16:24], "little"))
    return PlanHeader(flavor, ".".join(map(str, start[24:28])))


def _require_size(plan: Path, found: int, expected: int) -> None:
    if found < expected:
        raise ArtifactError(
            f"{plan} is cut off: {found} of {expected} bytes; copy it again, or "
            f"{remake_remedy(plan)}"
        )


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
    of_gpu = f"sm{(compute_capability or '').replace('.', '')}"
    return f"model.{precision}.{'rtx' if flavor is Flavor.RTX else of_gpu}.plan"


def open_engine(
    path: Path,
    *,
    source: Path | None = None,
    runtime_version: str | None = None,
    compute_capability: str | None = None,
) -> Engine:
    """Verify a plan against its own header, its record, the ONNX file that is its `source`, and
    what is to run it: the version of TensorRT or TensorRT-RTX, and the GPU's compute capability,
    such as "9.0". Raises ArtifactError where something does not fit, with what, and what to do."""
    header = read_plan_header(path)
    record = read_record(path)
    if record.plan != path.name:
        raise ArtifactError(
            f"{record_path(path)} is the record of {record.plan}; give the plan its name back, or "
            f"{remake_remedy(path)}"
        )
    size = path.stat().st_size
    _require_size(path, size, record.size)
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
    kind = flavor, precision
    names = sorted(name for name, f in files.items() if (f.flavor, f.precision) == kind)
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
