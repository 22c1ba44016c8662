"""The record of a plan: `model.fp16.sm90.plan.json` beside `model.fp16.sm90.plan`."""

from pathlib import Path
from typing import Annotated, Literal

from packaging.version import Version
from pydantic import StringConstraints

from ..artifact import remake_remedy
from ..errors import ArtifactError
from ..manifest import FileName, Record
from ..types import Flavor, Precision

#: A compute capability, such as "9.0" or "12.0".
ComputeCapability = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}\.[0-9]$")]

Dims = tuple[int, ...]


class ShapeProfile(Record):
    """The shapes of one input that an engine takes, batch first; the engine is fastest at `opt`."""

    min: Dims
    opt: Dims
    max: Dims


class BuildFlags(Record):
    """The settings of TensorRT's builder, as in `BuildOptions`. `workspace_bytes` is the most
    scratch memory that a layer may use; None is the GPU's memory. An engine with `weights_stripped`
    computes nothing useful until it is refitted with the weights of its ONNX file."""

    tf32: bool = False
    optimization_level: int
    workspace_bytes: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    weights_stripped: bool = False


class ComputeLayers(Record):
    """Numbers of the layers that do the arithmetic, such as convolutions and matrix products, by
    kind, then by precision, counted over the parsed `network`, or by the `inspector` in the engine
    itself, which takes a GPU."""

    source: Literal["network", "inspector"]
    layers: dict[str, dict[str, int]]

    @property
    def total(self) -> int:
        return sum(sum(counts.values()) for counts in self.layers.values())

    def count(self, precision: str) -> int:
        return sum(counts.get(precision, 0) for counts in self.layers.values())


class EngineRecord(Record):
    """How a plan was built and what it holds.

    version: the version of the TensorRT or TensorRT-RTX that built the plan.
    gpu, compute_capability: the GPU that built the plan; None where none was needed.
    target_compute_capabilities: those of the GPUs that a TensorRT-RTX engine runs on.
    source, source_sha256: the ONNX file that the plan was built from.
    target: the Triton release that the plan was built for, such as `tritonserver:26.04`.
    network_layers, inspected_layers: counted before building and, where a GPU was, in the engine.
    """

    record_version: Literal[1] = 1
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
        """The most images that the engine takes at once."""
        return min(shapes.max[0] for shapes in self.profile.values())

    def require_batch(self, wanted: int) -> None:
        """Raise ArtifactError where the engine takes fewer than `wanted` images at once."""
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
        """The compute capabilities that `runs_on` is true for, in words."""
        if self.flavor is Flavor.RTX:
            return ", ".join(self.target_compute_capabilities)
        return "8.0 and later" if self.flags.hardware_compatible else str(self.compute_capability)

    def loads_in(self, runtime_version: str) -> bool:
        """Whether this version of TensorRT loads the engine."""
        built, runtime = Version(self.version), Version(runtime_version)
        if self.flags.version_compatible:
            return runtime.major == built.major and runtime >= built
        return runtime.release == built.release


def record_path(plan: Path) -> Path:
    return plan.with_name(f"{plan.name}.json")


def read_record(plan: Path) -> EngineRecord:
    """The record beside a plan; ArtifactError where it is missing, damaged or of another schema."""
    path = record_path(plan)
    remedy = remake_remedy(plan)
    if not path.exists():
        raise ArtifactError(
            f"{path} is missing: without its record nobody knows what {plan.name} was built from "
            f"and for; copy it from beside the plan, or {remedy}"
        )
    return EngineRecord.read(path, remedy, "record_version")
