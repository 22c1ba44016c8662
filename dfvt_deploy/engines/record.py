"""A built engine on disk: the raw plan, its record beside it, and whether the two fit.

`model.fp16.sm90.plan` is exactly what TensorRT serialised, with nothing in front;
`model.fp16.sm90.plan.json` is its `EngineRecord`.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.version import Version
from pydantic import StringConstraints, ValidationError

from ..artifact import MANIFEST, ONNX_FILES, Artifact, FileName, Record
from ..errors import ArtifactError
from ..files import sha256_of
from ..types import Flavor as Flavor
from ..types import Precision

RECORD_VERSION: Literal[1] = 1


#: The first four bytes of a plan, little-endian.
MAGIC = {Flavor.TENSORRT: 0x74727466, Flavor.RTX: 0x74727476}

#: Bytes of a plan up to and with its version.
_HEADER = 28

#: How far into a file its plan is looked for.
_SEARCHED = 2**20

#: "9.0", "12.0"
ComputeCapability = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]$")]

Dims = tuple[int, ...]


class ShapeProfile(Record):
    """The shapes of one input that an engine takes, batch first; it is fastest at `opt`."""

    min: Dims
    opt: Dims
    max: Dims


class BuildFlags(Record):
    """What the builder was told beside the network.

    optimization_level: 0 to 5; higher builds longer and may run faster.
    workspace_bytes: most scratch memory of a layer; None for the GPU's memory.
    hardware_compatible: runs on every GPU of compute capability 8.0 and up.
    version_compatible: loads in later releases of the same major version too.
    weights_stripped: does nothing useful until it is refitted with the weights of its ONNX file.
    """

    tf32: bool = False
    optimization_level: int
    workspace_bytes: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    weights_stripped: bool = False


class ComputeLayers(Record):
    """Layers that do the arithmetic (convolutions, matrix products and the like), by kind and then
    by the precision they compute in.

    source: `network` when counted over the parsed, strongly typed network; `inspector` when
        read from the engine itself, which takes a GPU.
    """

    source: Literal["network", "inspector"]
    layers: dict[str, dict[str, int]]

    @property
    def total(self) -> int:
        return sum(sum(counts.values()) for counts in self.layers.values())

    def count(self, precision: str) -> int:
        return sum(counts.get(precision, 0) for counts in self.layers.values())


class EngineRecord(Record):
    """How a plan was built and what it holds (`<plan>.json`).

    version: of the TensorRT or TensorRT-RTX that built it.
    gpu, compute_capability: where it was built; None for one built without a GPU.
    target_compute_capabilities: of the GPUs that a TensorRT-RTX engine runs on.
    profile: by input, the shapes the engine takes.
    source, source_sha256: the ONNX file it was built from.
    target: the release it was built for, such as `tritonserver:26.04`.
    network_layers: counted before building; `inspected_layers`: in the engine, where a GPU was.
    """

    record_version: Literal[1] = RECORD_VERSION
    plan: FileName
    size: int
    sha256: str
    flavor: Flavor
    version: str
    precision: Precision
    gpu: str | None = None
    compute_capability: ComputeCapability | None = None
    target_compute_capabilities: tuple[ComputeCapability, ...] = ()
    flags: BuildFlags
    profile: dict[str, ShapeProfile]
    source: FileName
    source_sha256: str
    target: str | None = None
    network_layers: ComputeLayers
    inspected_layers: ComputeLayers | None = None
    seconds: float
    created: str
    command: str

    @property
    def max_batch(self) -> int:
        """Most images that the engine takes at once."""
        return min(shapes.max[0] for shapes in self.profile.values())

    def require_batch(self, wanted: int) -> None:
        """Raises ArtifactError when the engine takes fewer images than `wanted` at once."""
        if wanted > self.max_batch:
            raise ArtifactError(
                f"{self.plan} takes at most {self.max_batch} images at once, the model's "
                f"max_batch_size is {wanted}; build it again with --max-batch {wanted}, or "
                f"populate with --max-batch-size {self.max_batch}"
            )

    def runs_on(self, compute_capability: str) -> bool:
        """Whether the engine runs on GPUs of a compute capability."""
        if self.flavor is Flavor.RTX:
            return compute_capability in self.target_compute_capabilities
        if self.flags.hardware_compatible:
            return Version(compute_capability) >= Version("8.0")
        return compute_capability == self.compute_capability

    @property
    def runs_where(self) -> str:
        """The GPUs of `runs_on`, in words."""
        if self.flavor is Flavor.RTX:
            return ", ".join(self.target_compute_capabilities)
        return "8.0 and later" if self.flags.hardware_compatible else str(self.compute_capability)

    def loads_in(self, runtime_version: str) -> bool:
        """Whether a runtime of that version loads the engine."""
        built, runtime = Version(self.version), Version(runtime_version)
        if self.flags.version_compatible:
            return runtime.major == built.major and runtime >= built
        return runtime.release == built.release


@dataclass(frozen=True)
class PlanHeader:
    """What a plan says of itself. `size` is the length it should have, where it says so."""

    flavor: Flavor
    version: str
    size: int | None = None

    def is_of(self, flavor: Flavor, version: str) -> bool:
        """Whether a TensorRT version writes this header, which has a byte for each part."""
        parts = [part % 256 for part in Version(version).release]
        return self.flavor is flavor and self.version == ".".join(map(str, (parts + [0] * 4)[:4]))


@dataclass(frozen=True)
class Engine:
    """A plan that was just found to be the one of its record."""

    path: Path
    record: EngineRecord


def engine_file_name(
    precision: Precision, flavor: Flavor, compute_capability: str | None = None
) -> str:
    """`model.<precision>.sm<CC>.plan`, or `model.<precision>.rtx.plan`.

    Args:
        compute_capability: such as "9.0", of the GPU that a TensorRT engine is built on.
    """
    if flavor is Flavor.RTX:
        return f"model.{precision}.rtx.plan"
    if compute_capability is None:
        raise ValueError("a TensorRT engine is built for one compute capability")
    return f"model.{precision}.sm{compute_capability.replace('.', '')}.plan"


def record_path(plan: Path) -> Path:
    return plan.with_name(f"{plan.name}.json")


def read_plan_header(path: Path) -> PlanHeader:
    """Flavor and version from the first bytes of a plan.

    Raises:
        ArtifactError: it is no plan, something stands in front of it, or its end is missing.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_SEARCHED)
        found = path.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise ArtifactError(f"{path} is empty; {_rebuild(path)}")
    words = {struct.pack("<I", word): flavor for flavor, word in MAGIC.items()}
    flavor = words.get(start[:4])
    if flavor is None:
        ahead = min((at for word in words if (at := start.find(word)) > 0), default=None)
        if ahead is None:
            raise ArtifactError(
                f"{path} is no TensorRT plan: it starts with {start[:4].hex(' ')}; {_rebuild(path)}"
            )
        raise ArtifactError(
            f"{path}: {ahead} bytes stand in front of the plan; TensorRT and Triton read the raw "
            f"plan only. Remove them (tail --bytes=+{ahead + 1}), or {_rebuild(path)}"
        )
    if len(start) < _HEADER:
        raise ArtifactError(f"{path} is cut off after {found} bytes; {_rebuild(path)}")
    version = ".".join(map(str, start[24:28]))
    size = None
    if flavor is Flavor.RTX:  # for TensorRT's plans the field was never seen
        size = int.from_bytes(start[16:24], "little")
        if found < size:
            raise _truncated(path, found, size)
    return PlanHeader(flavor, version, size)


def read_record(plan: Path) -> EngineRecord:
    """The record beside a plan.

    Raises:
        ArtifactError: there is none, or it cannot be used.
    """
    path = record_path(plan)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} is missing: without its record nobody knows what {plan.name} was built from "
            f"and for; copy it from beside the plan, or {_rebuild(plan)}"
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; {_rebuild(plan)}") from error
    found = content.get("record_version") if isinstance(content, dict) else None
    if found != RECORD_VERSION:
        raise ArtifactError(
            f"{path} has record version {found}, this dfvt-deploy reads {RECORD_VERSION}; "
            f"{_rebuild(plan)}"
        )
    try:
        return EngineRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path}: {where}: {first['msg']}; {_rebuild(plan)}") from None


def open_engine(
    path: Path,
    *,
    source: Path | None = None,
    runtime_version: str | None = None,
    compute_capability: str | None = None,
) -> Engine:
    """Verify a plan against its own header, its record, and what it is to run with.

    Args:
        source: the ONNX file it must have been built from.
        runtime_version: of the TensorRT or TensorRT-RTX that will load it.
        compute_capability: such as "9.0", of the GPU that will run it.

    Raises:
        ArtifactError: says what does not fit, and what to do.
    """
    header = read_plan_header(path)
    record = read_record(path)
    if record.plan != path.name:
        raise ArtifactError(
            f"{record_path(path)} is the record of {record.plan}; give the plan its name back, or "
            f"{_rebuild(path)}"
        )
    size = path.stat().st_size
    if size < record.size:
        raise _truncated(path, size, record.size)
    if size != record.size or sha256_of(path) != record.sha256:
        raise ArtifactError(
            f"{path} is not the plan of its record: its SHA-256 differs from the one in "
            f"{record_path(path).name}; {_rebuild(path, record)}"
        )
    if not header.is_of(record.flavor, record.version):
        raise ArtifactError(
            f"{path} was built by {header.flavor.product} {header.version}, its record says "
            f"{record.flavor.product} {record.version}; {_rebuild(path, record)}"
        )
    if source is not None and sha256_of(source) != record.source_sha256:
        raise ArtifactError(
            f"{path} was built from another {record.source} than {source} is now; "
            f"{_rebuild(path, record)}"
        )
    if runtime_version is not None and not record.loads_in(runtime_version):
        raise ArtifactError(
            f"{path} was built by {record.flavor.product} {record.version} and cannot be loaded by "
            f"{runtime_version}; {_rebuild(path, record)} with that version, or for a container "
            "with --target tritonserver:YY.MM"
        )
    if compute_capability is not None and not record.runs_on(compute_capability):
        raise ArtifactError(
            f"{path} is for GPUs of compute capability {record.runs_where}, this one has "
            f"{compute_capability}; {_rebuild(path, record)} on such a GPU"
        )
    return Engine(path, record)


def engines_of(
    artifact: Artifact, precision: Precision, flavor: Flavor = Flavor.TENSORRT
) -> tuple[Engine, ...]:
    """Every verified engine of a model in one precision, by file name: one per kind of GPU.

    Raises:
        ArtifactError: there is none, or one is damaged or older than its ONNX file.
    """
    command = f"dfvt-deploy build-trt {artifact.manifest.name} --precision {precision}"
    command += " --flavor rtx" if flavor is Flavor.RTX else ""
    ending = ".rtx.plan" if flavor is Flavor.RTX else ".plan"
    names = sorted(
        name
        for name, file in artifact.manifest.files.items()
        if name.endswith(ending)
        and name.endswith(".rtx.plan") is (flavor is Flavor.RTX)
        and file.precision is precision
    )
    if not names:
        raise ArtifactError(
            f"{artifact.directory} has no {flavor.product} engine in {precision}; "
            f"make one with: {command}"
        )
    source = artifact.onnx_path(precision)
    current = artifact.manifest.files[source.name].sha256
    for name in names:
        if artifact.manifest.files[name].source_sha256 != current:
            raise ArtifactError(
                f"{artifact.directory / name} was built from another {source.name}; "
                f"build it again with: {command}"
            )
    engines = tuple(open_engine(artifact.directory / name, source=source) for name in names)
    for engine in engines:
        if engine.record.sha256 != artifact.manifest.files[engine.path.name].sha256:
            raise ArtifactError(
                f"{engine.path} was changed since it was written: it is the plan of its record, "
                f"but not the one in {MANIFEST}; build it again with: {command}"
            )
    return engines


def source_name(precision: Precision) -> str:
    """The ONNX file that engines of a precision are built from."""
    return ONNX_FILES[precision]


def record_text(record: EngineRecord) -> str:
    """The text of a plan's record."""
    return record.model_dump_json(indent=2) + "\n"


def _truncated(path: Path, found: int, expected: int) -> ArtifactError:
    return ArtifactError(
        f"{path} is cut off: {found} of {expected} bytes; copy it again, or {_rebuild(path)}"
    )


def _rebuild(path: Path, record: EngineRecord | None = None) -> str:
    if record is not None:
        return f"build it again with: {record.command}"
    return f"build it again with: dfvt-deploy build-trt {path.parent.name}"
