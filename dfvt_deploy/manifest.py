"""The records of `manifest.json`, which every step after `export` reads, and their JSON schema.

A manifest says what an exported model is, which checkpoint it came from, its tensors,
preprocessing and class names, which checks it passed with which figures, and the hash of every
file of its folder.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from typing_extensions import Self

from .errors import ArtifactError
from .json_files import JsonError, read_json
from .names import NAME_PATTERN, ONNX_FILES, check_model_name
from .text_files import check_name
from .types import Flavor, InputKind, Int8Target, Nms, Precision, Task, Variant, Weights

MANIFEST = "manifest.json"
SCHEMA_VERSION: Literal[1] = 1

#: The name of a file: one part of a path, never a path.
FileName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=65536)]
Dimension = Annotated[int, Field(ge=1, lt=2**31)]
Symbol = Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]

#: A class name: one line without control characters, which a served labels.txt can hold.
Label = Annotated[str, AfterValidator(check_name)]


class Record(BaseModel):
    """Base of the records in JSON files: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path, remedy: str, version: str = "") -> Self:
        """The record in a file. Raises ArtifactError with the remedy where there is none, or one of
        another version than the default of the field that `version` names."""
        try:
            content = read_json(path)
            if version:
                found = content.get(version) if isinstance(content, dict) else None
                if found != (known := cls.model_fields[version].default) or found is True:
                    raise ArtifactError(
                        f"{path} has {version.replace('_', ' ')} {str(found)[:40]}, this "
                        f"dfvt-deploy reads {known}; {remedy}, or use the release that wrote it"
                    )
            return cls.model_validate(content)
        except JsonError as error:
            raise ArtifactError(f"{error}; {remedy}") from None
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}." for part in first["loc"])[:-1] + ": " * bool(first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            raise ArtifactError(f"{path}: {where}{reason}; {remedy}") from None

    def as_text(self) -> str:
        """The text of the record's file."""
        return self.model_dump_json(indent=2) + "\n"


class TensorSpec(Record):
    """An input or output of a graph. A dimension is a size or the name of a symbolic size."""

    name: Symbol
    dtype: Annotated[str, Field(pattern="^(uint8|int32|int64|float32|bytes)$")]
    shape: tuple[Dimension | Symbol, ...] = Field(min_length=1, max_length=8)


class CheckpointRecord(Record):
    """Where the weights came from: a `file`, the authors' release (`published`), a file for the
    backbone with an untrained head (`backbone`), or nowhere (`untrained`); and which weights of the
    file."""

    source: Literal["file", "published", "backbone", "untrained"]
    file: str | None = None
    layout: str | None = None
    weights: Weights = Weights.MODEL
    sha256: str | None = None


class Preprocessing(Record):
    """How `dfvt_deploy.tasks` turns a photograph into the network's input.

    crop: height and width that a classifier cuts out of the middle.
    canvas: the fixed height and width of a static export.
    mean, std: of the red, green and blue channels, in grey levels 0 to 255.
    """

    resize: str
    interpolation: str
    crop: tuple[Side, Side] | None = None
    padding: str | None = None
    canvas: tuple[Side, Side] | None = None
    color: Literal["RGB"] = "RGB"
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Spread, Spread, Spread]
    normalised_in_graph: bool


#: What a limit is for; see `compare.agreement.Limit`.
CheckKind = Literal["release", "breakage", "sanity"]


class Check(Record):
    """One comparison that was made, its figure and the limit it had to keep.

    name: what was compared, and the name of the figure.
    at_least: the figure must be the limit or more; otherwise it must be the limit or less.
    """

    name: str
    figure: float
    limit: float
    at_least: bool = False
    kind: CheckKind = "release"
    passed: bool

    def __str__(self) -> str:
        """The name and the figure with, in parentheses, the limit."""
        sign = "≥" if self.at_least else "≤"
        figure = f"{self.figure:.0f}" if self.figure.is_integer() else f"{self.figure:.4g}"
        return f"{self.name} {figure} ({sign} {self.limit:g})"


class GraphRecord(Record):
    """The ONNX graph: nodes by operator before (`operators_before`) and after simplifying."""

    opset: Count
    ir_version: Count
    operators_before: dict[str, Count]
    operators: dict[str, Count]


class FileRecord(Record):
    """A file of the folder, its size in bytes, and the command that makes it again.

    flavor: the kind of a TensorRT plan; None for an ONNX file.
    source_sha256: the hash that a derived file's source had when the file was made.
    """

    size: Count
    sha256: Sha256
    precision: Precision
    command: str
    flavor: Flavor | None = None
    source_sha256: Sha256 | None = None


class Calibration(Record):
    """The images that a conversion was calibrated on.

    source: the folder's name, or `samples` for the images of the package.
    method: how INT8 ranges were chosen; None for FP16, which looks for overflow only.
    """

    source: str
    images: Count
    method: str | None = None


class ConversionRecord(Record):
    """How a file of lower precision was made from model.onnx.

    target: the runtime that an INT8 file was made for.
    weight_bits: 7 or 8, of an INT8 file for CPUs.
    kept_fp32: nodes and operators that the options or the search kept in float32.
    operators: number of nodes by operator, then by the precision of the node; `other` counts
        nodes without floating-point values.
    reasons: number of nodes in float32 by reason, then by operator.
    seconds: duration of each step.
    """

    created: str
    command: str
    versions: dict[str, str]
    calibration: Calibration | None = None
    target: Int8Target | None = None
    weight_bits: Count | None = None
    kept_fp32: tuple[str, ...] = ()
    operators: dict[str, dict[str, Count]]
    reasons: dict[str, dict[str, Count]] = {}
    checks: tuple[Check, ...] = ()
    seconds: dict[str, Seconds] = {}


class Verdict(Record):
    """What `validate` decided about one file, compared with the float32 PyTorch model.

    file_sha256: hash of the file that was judged; the verdict is void once the file changes.
    metric: the dataset's metric in points, or the kind of agreement where there were no labels.
    figures: the figures behind the verdict, by name; an accuracy gate has `drop`, `upper_bound`
        and `limit`. None is a figure that is not finite.
    report: file name of the JSON report beside the manifest; the HTML report has the same stem.
    """

    verdict: Literal["passed", "failed", "inconclusive"]
    file_sha256: Sha256
    created: str
    command: str
    dataset: str
    images: Count
    metric: str
    figures: dict[str, Finite | None]
    report: FileName

    @property
    def by_gate(self) -> bool:
        """Whether the verdict rests on the drop of a dataset's metric and not on agreement."""
        return "upper_bound" in self.figures


#: The options of `populate` that decide how fast a model is served.
Setting = Literal[
    "backend", "precision", "instances", "threads", "preprocess_instances", "queue_delay_us"
]


class TunedRow(Record):
    """A way to serve a model, as it was measured.

    verdict: that of `validate` on the file.
    problem: why it cannot be chosen: the server's reason not to start, or wrong answers.
    figures: p50_ms and p99_ms of a request, right images_per_second, and the server's memory_mb.
    final: whether it was measured for longer, being among the best.
    """

    settings: dict[Setting, str | int]
    file: str
    file_sha256: str
    verdict: str
    problem: str = ""
    figures: dict[str, Finite] = {}
    final: bool


class Tuning(Record):
    """What one run of `tune` found, best first; `chosen` is None where no row can be."""

    created: str
    command: str
    goal: Literal["latency", "throughput"]
    machine: str
    cores: int
    chosen: TunedRow | None
    rows: tuple[TunedRow, ...]
    interrupted: bool


class Manifest(Record):
    """The record of one exported model.

    parameters: number of weights.
    macs: multiply-accumulates for one image.
    nms: how a detector removes overlapping boxes; None for the other tasks.
    files: the records of the folder's files, by file name; `model.onnx` is always among them.
    conversions: how a file of lower precision was made from `model.onnx`, by file name.
    keep_fp32: nodes and operators that a search found must stay in float32, by precision; later
        conversions to that precision keep them so.
    verdicts: what `validate` decided last, by file name; `.bf16` after it is about model.onnx in
        OpenVINO's bfloat16, `.fast-decode` about images decoded at reduced scale.
    tuned: what `tune` found last, and `populate` serves with; None where it never ran.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: FileName
    task: Task
    variant: Variant
    num_classes: Annotated[int, Field(ge=1, le=65536)]
    parameters: Count
    macs: Count
    created: str
    command: str
    versions: dict[str, str]
    checkpoint: CheckpointRecord
    input_kind: InputKind
    nms: Nms | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    labels: tuple[Label, ...]
    graph: GraphRecord
    checks: tuple[Check, ...]
    seconds: dict[str, Seconds]
    files: dict[FileName, FileRecord] = Field(min_length=1)
    conversions: dict[FileName, ConversionRecord] = {}
    keep_fp32: dict[Precision, tuple[str, ...]] = {}
    verdicts: dict[FileName, Verdict] = {}
    tuned: Tuning | None = None

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        check_model_name(self.name)
        if len(self.labels) != self.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.num_classes} classes")
        if (network := ONNX_FILES[Precision.FP32]) not in self.files:
            raise ValueError(f"files lacks {network}")
        for what, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{what} is empty or has a name twice")
        self._check_inputs()
        return self

    def _check_inputs(self) -> None:
        """Check that `images` is of the input's kind, and that other inputs have a fixed shape."""
        images = next((spec for spec in self.inputs if spec.name == "images"), None)
        if images is None or images.dtype != self.input_kind:
            raise ValueError(f"inputs lacks a tensor `images` of {self.input_kind}")
        batch, *sides = images.shape
        channels = sides.pop(-1 if self.input_kind is InputKind.UINT8 else 0) if sides else 0
        fixed = len(sides) == 2 and all(isinstance(side, int) for side in sides)
        if (batch, channels) != ("batch", 3) or not (fixed or sides == ["height", "width"]):
            raise ValueError(f"the shape of `images` is {images.shape}")
        for spec in self.inputs:
            if spec is not images and (
                spec.shape[0] != "batch" or set(map(type, spec.shape[1:])) - {int}
            ):
                raise ValueError(f"the shape of `{spec.name}` is {spec.shape}")

    def plans(self) -> list[str]:
        """The file names of the TensorRT plans, in order."""
        return sorted(name for name, record in self.files.items() if record.flavor is not None)

    @property
    def trained(self) -> bool:
        """Whether all weights came from a checkpoint."""
        return self.checkpoint.source in ("file", "published")


def manifest_schema() -> dict[str, Any]:
    """The JSON schema of `manifest.json`."""
    schema = Manifest.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
