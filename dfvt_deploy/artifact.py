"""An exported model on disk: its folder, its manifest, and whether the two still agree.

`manifest.json` is the record that everything after `export` reads: what the model is, which
checkpoint it came from, its tensors, preprocessing and class names, which checks it passed with
which figures, and the hash of every file. Its JSON schema is `manifest_schema()`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from .errors import ArtifactError, GateFailed
from .files import locked, sha256_of, write_text
from .types import InputKind, Int8Target, Nms, Precision, Task, Variant

MANIFEST = "manifest.json"
ONNX_FILES = {
    Precision.FP32: "model.onnx",
    Precision.FP16: "model.fp16.onnx",
    Precision.INT8: "model.int8.onnx",
}
SCHEMA_VERSION: Literal[1] = 1


#: The name of a model or file: one part of a path, never a path.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
FileName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]

#: Ends of the names of a served model's steps; no model may be called like another's step.
STEPS = ("preprocess", "network", "postprocess")


class Record(BaseModel):
    """Immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(Record):
    """A graph input or output. A dimension is a size or the name of a symbolic one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class CheckpointRecord(Record):
    """Where the weights came from. `source`: `file`, `published`, `untrained`, or `backbone` for
    an untrained head on the backbone of the file."""

    source: Literal["file", "published", "backbone", "untrained"]
    file: str | None = None
    layout: str | None = None
    sha256: str | None = None


class Preprocessing(Record):
    """What turns a photograph into the network's input; done by `dfvt_deploy.tasks`.

    `crop` and `canvas` are height and width; a canvas is the fixed size of a static export.
    """

    resize: str
    interpolation: str
    crop: tuple[int, int] | None = None
    padding: str | None = None
    canvas: tuple[int, int] | None = None
    color: Literal["RGB"] = "RGB"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    normalised_in_graph: bool


class Check(Record):
    """One comparison that was made, its figure and the limit it had to keep."""

    name: str
    figure: float
    limit: float
    passed: bool


class GraphRecord(Record):
    """The ONNX graph, before and after simplifying; operators by type."""

    opset: int
    ir_version: int
    operators_before: dict[str, int]
    operators: dict[str, int]

    @property
    def nodes_before(self) -> int:
        return sum(self.operators_before.values())

    @property
    def nodes(self) -> int:
        return sum(self.operators.values())


class FileRecord(Record):
    """A file of the folder. A derived file names its source's hash as it was then."""

    size: int
    sha256: str
    precision: Precision
    source_sha256: str | None = None


class Calibration(Record):
    """The images that a conversion was calibrated on. `source`: the folder's name, or `samples`
    for those of the package; `method` is None where only ranges or overflow were looked at."""

    source: str
    images: int
    method: str | None = None


class ConversionRecord(Record):
    """How a file of lower precision was made from model.onnx.

    target: what an INT8 file was made for.
    kept_fp32: names of nodes, and operators, that were told to stay in float32.
    operators: nodes by operator, then by the precision they ended in; `other` has no
        floating-point values.
    reasons: why nodes stayed in float32, with their number by operator.
    """

    created: str
    command: str
    versions: dict[str, str]
    calibration: Calibration | None = None
    target: Int8Target | None = None
    kept_fp32: tuple[str, ...] = ()
    operators: dict[str, dict[str, int]]
    reasons: dict[str, dict[str, int]] = {}
    checks: tuple[Check, ...] = ()
    seconds: dict[str, float] = {}


class Verdict(Record):
    """What `validate` decided about one file against the float32 PyTorch model.

    file_sha256: the file that was judged; a file changed since then has no verdict.
    metric: of the dataset in points, or the agreement where there were no labels.
    figures: the figures it rests on, by name; those of a gate are `drop`, `upper_bound`, `limit`.
    report: file name of the JSON report, beside the manifest; the HTML one is beside it.
    """

    verdict: Literal["passed", "failed", "inconclusive"]
    file_sha256: str
    created: str
    command: str
    dataset: str
    images: int
    metric: str
    figures: dict[str, float]
    report: FileName

    @property
    def by_gate(self) -> bool:
        """Whether it rests on the drop of a dataset's metric, not on agreement."""
        return "upper_bound" in self.figures


class Manifest(Record):
    """The record of one exported model (`manifest.json`). `nms` is a detector's.

    conversions: by file, how it was made from model.onnx.
    keep_fp32: by precision, nodes and operators that a search found must stay in float32; later
        conversions to that precision keep them so.
    verdicts: by file, what `validate` decided last.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: FileName
    task: Task
    variant: Variant
    num_classes: int
    parameters: int
    macs: int
    created: str
    command: str
    versions: dict[str, str]
    checkpoint: CheckpointRecord
    input_kind: InputKind
    nms: Nms | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    graph: GraphRecord
    checks: tuple[Check, ...]
    seconds: dict[str, float]
    files: dict[FileName, FileRecord] = Field(min_length=1)
    conversions: dict[FileName, ConversionRecord] = {}
    keep_fp32: dict[Precision, tuple[str, ...]] = {}
    verdicts: dict[FileName, Verdict] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        check_model_name(self.name)
        if len(self.labels) != self.num_classes:
            raise ValueError(f"{len(self.labels)} labels for {self.num_classes} classes")
        if any("\n" in label or "\r" in label for label in self.labels):
            raise ValueError("a label has more than one line")
        return self

    @property
    def trained(self) -> bool:
        return self.checkpoint.source in ("file", "published")


@dataclass(frozen=True)
class Artifact:
    """An exported model whose files were just found to be those of its manifest."""

    directory: Path
    manifest: Manifest

    def onnx_path(self, precision: Precision = Precision.FP32) -> Path:
        """The ONNX file of a precision.

        Raises:
            ArtifactError: it was not made, or its source changed since.
        """
        name = ONNX_FILES[precision]
        remake = (
            self.manifest.command
            if precision is Precision.FP32
            else f"dfvt-deploy convert {self.manifest.name} --precision {precision}"
        )
        record = self.manifest.files.get(name)
        if record is None:
            raise ArtifactError(f"{self.directory} has no {name}; make it with: {remake}")
        source = self.manifest.files[ONNX_FILES[Precision.FP32]]
        if record.source_sha256 not in (None, source.sha256):
            raise ArtifactError(
                f"{self.directory / name} was made from another model.onnx; "
                f"remake it with: {remake}"
            )
        return self.directory / name

    def verdict(self, file: str) -> Verdict | None:
        """What was decided about a file as it is now; None if nothing was."""
        verdict = self.manifest.verdicts.get(file)
        record = self.manifest.files.get(file)
        if verdict is None or record is None or verdict.file_sha256 != record.sha256:
            return None
        return verdict

    def require_validated(self, file: str) -> Verdict:
        """The passing verdict about this file as it is now; raises GateFailed without one."""
        verdict = self.verdict(file)
        if verdict is not None and verdict.verdict == "passed":
            return verdict
        path = self.directory / file
        earlier = self.manifest.verdicts.get(file)
        remedy = earlier.command if earlier else f"dfvt-deploy validate {self.manifest.name}"
        if verdict is not None:
            raise GateFailed(
                f"{path} did not pass: {verdict.verdict}, on {verdict.images:,} images of "
                f"{verdict.dataset} ({verdict.report}); mend it and run: {remedy}"
            )
        found = "was changed since it was validated" if earlier else "was never validated"
        raise GateFailed(f"{path} {found}; run: {remedy}")

    def reports(self, file: str) -> list[Path]:
        """The reports of a file's verdict, JSON and HTML, as far as they exist."""
        verdict = self.verdict(file)
        if verdict is None:
            return []
        report = self.directory / verdict.report
        return [path for path in (report, report.with_suffix(".html")) if path.is_file()]


def check_model_name(name: str) -> None:
    """Raises ValueError for a name that cannot be a folder and a Triton model beside others."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"name {name!r} may hold letters, digits, '_', '.' and '-' only")
    if name.endswith(tuple(f"_{step}" for step in STEPS)):
        raise ValueError(f"name {name!r} may not end like a step: _{', _'.join(STEPS)}")


def file_record(path: Path, precision: Precision, source_sha256: str | None = None) -> FileRecord:
    return FileRecord(
        size=path.stat().st_size,
        sha256=sha256_of(path),
        precision=precision,
        source_sha256=source_sha256,
    )


def open_artifact(directory: str | Path, precision: Precision | None = None) -> Artifact:
    """Read a folder of `exports/` and verify its files against its manifest.

    Args:
        precision: verify model.onnx and the ONNX file of this precision only, as what remakes or
            leaves out the others does not depend on them; every file without.

    Raises:
        ArtifactError: no manifest, one of another schema, or a file is missing or was changed.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    manifest = read_manifest(path)
    wanted = manifest.files
    if precision is not None:
        sources = (ONNX_FILES[Precision.FP32], ONNX_FILES[precision])
        wanted = {name: record for name, record in wanted.items() if name in sources}
    for name, record in wanted.items():
        file = directory / name
        if not file.is_file():
            raise ArtifactError(
                f"{file} is missing, {path} lists it; {_remedy(manifest, name, record)}"
            )
        if file.stat().st_size != record.size or sha256_of(file) != record.sha256:
            raise ArtifactError(
                f"{file} was changed since it was written: its SHA-256 is not the one in "
                f"{path.name}; {_remedy(manifest, name, record)}, or restore the file"
            )
    return Artifact(directory, manifest)


def _remedy(manifest: Manifest, name: str, record: FileRecord) -> str:
    model = f"{manifest.name} --precision {record.precision}"
    if name.endswith(".plan"):
        flavor = " --flavor rtx" if name.endswith(".rtx.plan") else ""
        return f"make it again with: dfvt-deploy build-trt {model}{flavor}"
    if record.source_sha256 is not None:
        return f"make it again with: dfvt-deploy convert {model}"
    return "export the model again"


def read_manifest(path: Path) -> Manifest:
    """Parse and validate a manifest; see `open_artifact` for the files beside it."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; make it with: dfvt-deploy export") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; export the model again") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {found}, this dfvt-deploy reads {SCHEMA_VERSION}; "
            "export the model again, or use the release that wrote it"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path}: {where}: {first['msg']}; export the model again") from None


def update_manifest(directory: Path, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Read the manifest of a folder, change it and write it, while no other process does.

    Raises:
        ArtifactError: see `read_manifest`.
    """
    with locked(directory):
        manifest = change(read_manifest(directory / MANIFEST))
        write_text(directory / MANIFEST, manifest_text(manifest))
    return manifest


def exported_models(exports: str | Path) -> list[Path]:
    """Folders of `exports` that hold a manifest, by name.

    Raises:
        ArtifactError: there is none.
    """
    found = sorted(path.parent for path in Path(exports).glob(f"*/{MANIFEST}"))
    if not found:
        raise ArtifactError(f"{exports} holds no exported model; make one with: dfvt-deploy export")
    return found


def manifest_text(manifest: Manifest) -> str:
    """The text of a `manifest.json`."""
    return manifest.model_dump_json(indent=2) + "\n"


def manifest_schema() -> dict[str, Any]:
    """The JSON schema of `manifest.json`."""
    schema = Manifest.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def now() -> str:
    """This moment in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
