"""The records that `validate` returns and writes as JSON."""

from typing import Any, Literal

from pydantic import Field, model_validator

from ..compare.agreement import Agreement
from ..manifest import Check, Record
from ..text_files import printable
from ..types import Precision, StringEnum, Task

Outcome = Literal["passed", "failed", "inconclusive"]


class Basis(StringEnum):
    """What the outcome of a stage rests on.

    `STEP`: the stage changed what it should not change, against the stage before it.
    `GATE`: the drop of the dataset's metric.
    `AGREEMENT`: the limits of agreement with the stage before it and with the reference.
    `CHANCE`, `NOTHING_FOUND`: the reference scores no better than chance, so that no drop means
        anything, or it finds nothing on any image, so that agreement means nothing.
    """

    STEP = "step"
    GATE = "gate"
    AGREEMENT = "agreement"
    CHANCE = "chance"
    NOTHING_FOUND = "nothing-found"


class PrintableRecord(Record):
    """A record whose texts may come from file names and other programs; characters that a terminal
    or UTF-8 cannot show are replaced by backslash escapes."""

    @model_validator(mode="before")
    @classmethod
    def _escape(cls, data: Any) -> Any:
        return _escaped(data)


def _escaped(data: Any) -> Any:
    if type(data) is str:
        return printable(data)
    if isinstance(data, dict):
        return {_escaped(key): _escaped(value) for key, value in data.items()}
    if isinstance(data, (tuple, list)):
        return type(data)(map(_escaped, data))
    return data


class GateFigures(Record):
    """The gate's decision about one stage, in points of the dataset's metric.

    verdict: `passed` if `upper_bound` is at most `limit`, `inconclusive` if only `drop` is at most
        `limit`, else `failed`.
    upper_bound: one-sided 95 % bound of the drop.
    images_needed: about how many images would decide, if the drop stays the same; None if the
        verdict is clear, or if the drop equals the limit, which no number of images decides.
    """

    verdict: Outcome
    drop: float
    upper_bound: float
    limit: float
    images: int
    images_needed: int | None = None


class ChanceLevel(Record):
    """The reference's score beside that of a model which does not look at the image, in points.

    score: the reference's first figure; None where it is not defined on these images.
    lower_bound: one-sided 95 % bound of the score from a bootstrap over the images; None likewise.
    chance: the score of a model that does not look at the image.
    needed: the lower bound must be above it for the reference to have learnt something.
    """

    score: float | None
    lower_bound: float | None
    chance: float
    needed: float

    @property
    def at_chance(self) -> bool:
        return self.lower_bound is None or self.lower_bound <= self.needed


class ImageChange(PrintableRecord):
    """An image whose answers a stage changed, against the reference. A larger `change` is more."""

    image: str
    change: float


class StageResult(PrintableRecord):
    """The figures of one stage. The reference is compared with nothing and has no agreements.

    changes, fast_decode: whether the precision or the decoding changes, and whether it is reduced.
    file, sha256: the exported model's file that the stage runs, where it runs one.
    step, step_checks: agreement with the stage before it (`source`), and its limits.
    total, total_checks: agreement with the reference, and its limits.
    scores: the dataset's metric, in points. drop: what its first figure lost against the
        reference; step_drop: what it lost against the stage before.
    milliseconds: mean time for one image. changed: the images that changed most.
    """

    name: str
    source: str | None
    title: str
    precision: Precision
    changes: bool
    file: str | None = None
    sha256: str | None = None
    fast_decode: bool = False
    step: Agreement | None = None
    total: Agreement | None = None
    step_checks: tuple[Check, ...] = ()
    total_checks: tuple[Check, ...] = ()
    scores: dict[str, float] = Field(default_factory=dict)
    drop: float | None = None
    step_drop: float | None = None
    gate: GateFigures | None = None
    milliseconds: float = 0
    changed: tuple[ImageChange, ...] = ()
    outcome: Outcome | Literal["reference"] = "reference"
    basis: Basis | None = None
    reason: str = ""

    @property
    def broken_checks(self) -> tuple[Check, ...]:
        return tuple(c for c in (*self.step_checks, *self.total_checks) if not c.passed)


class NotRun(PrintableRecord):
    """A stage that was left out, and why."""

    name: str
    reason: str


class Unjudged(PrintableRecord):
    """An image that a stage could not answer. No figure counts it."""

    image: str
    stage: str
    reason: str


class ClassChange(PrintableRecord):
    """One class in the reference's answers and in those of the shown stage: how many images, pixels
    or detections were given it, and the metric's first figure for it alone, in points."""

    class_id: int
    label: str
    reference: float
    candidate: float
    reference_score: float | None = None
    candidate_score: float | None = None

    @property
    def change(self) -> float:
        return self.candidate - self.reference

    @property
    def score_change(self) -> float:
        return (self.candidate_score or 0) - (self.reference_score or 0)


class TensorDifference(PrintableRecord):
    """One tensor inside two ONNX files, matched by name."""

    tensor: str
    operator: str
    max_abs: float
    max_rel: float
    non_finite: int


class TensorComparison(PrintableRecord):
    """The inner tensors of an ONNX file against those of model.onnx, over some images: the `first`
    whose difference, relative to its largest value, is beyond the limit, those with the `worst`,
    and how many both files have (`compared`) or model.onnx alone (`unmatched`)."""

    stage: str
    file: str
    images: int
    limit: float
    first: TensorDifference | None
    worst: tuple[TensorDifference, ...]
    compared: int
    unmatched: int


class Validation(PrintableRecord):
    """What `validate` found about one exported model.

    commands: the commands that make the figures again, in order.
    culprit: the stage that is to blame where the outcome is not `passed`; see `judge.culprit_of`.
    reason: why the outcome is what it is, in a sentence.
    metric, reference_level: the dataset's first figure, and the reference's score beside chance;
        None without labels.
    shown: the stage that `classes` is about.
    refused: number of images that could not be judged; `unjudged` lists the first of them.
    reports: names of the files that were written, by their kind (`json`, `html`).
    """

    schema_version: Literal[1] = 1
    model: str
    task: Task
    created: str
    command: str
    commands: tuple[str, ...]
    outcome: Outcome
    culprit: str | None
    reason: str
    reference: str
    dataset: str
    images: int
    metric: str | None
    max_drop: float | None
    reference_level: ChanceLevel | None = None
    stages: tuple[StageResult, ...]
    not_run: tuple[NotRun, ...]
    unjudged: tuple[Unjudged, ...]
    refused: int
    shown: str | None
    classes: tuple[ClassChange, ...]
    layers: TensorComparison | None = None
    notes: tuple[str, ...]
    checkpoint: str
    versions: dict[str, str]
    hardware: dict[str, str]
    seconds: float
    reports: dict[str, str] = Field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"

    def stage(self, name: str) -> StageResult:
        """Raises StopIteration where there is no stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)
