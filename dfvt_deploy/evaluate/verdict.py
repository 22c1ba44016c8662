"""What `validate` found: each hop against the one before it and against the reference, and who is
guilty of what was lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ..artifact import Check, Record
from ..types import Precision, Task
from .agreement import Agreement

Outcome = Literal["passed", "failed", "inconclusive"]

#: Points below which a drop is rounding.
_NO_DROP = 1e-9


class GateFigures(Record):
    """The gate's decision about one hop, in points of the dataset's metric."""

    verdict: Outcome
    drop: float
    upper_bound: float
    limit: float
    images: int
    images_needed: int | None = None


class HopResult(Record):
    """One hop's figures. Agreements are None for the reference, which is compared with nothing.

    step: with the hop before it; total: with the reference.
    step_checks, total_checks: their figures and limits.
    scores: of the dataset's metric, in points. drop: of its first, against the reference.
    step_drop: the same, against the hop before it.
    file, sha256: of the exported model, where the hop is one of its files.
    """

    name: str
    source: str | None
    title: str
    precision: Precision
    changes: bool
    file: str | None = None
    sha256: str | None = None
    step: Agreement | None = None
    total: Agreement | None = None
    step_checks: tuple[Check, ...] = ()
    total_checks: tuple[Check, ...] = ()
    scores: dict[str, float] = Field(default_factory=dict)
    drop: float | None = None
    step_drop: float | None = None
    gate: GateFigures | None = None
    milliseconds: float = 0
    outcome: Outcome | Literal["reference"]
    reason: str = ""


class NotRun(Record):
    """A hop that was left out, and why."""

    name: str
    reason: str


class Unjudged(Record):
    """An image that a hop could not answer; no figure counts it."""

    image: str
    hop: str
    reason: str


class ImageChange(Record):
    """An image whose answer the shown hop changed, and by how much (larger is more)."""

    image: str
    change: float


class ClassChange(Record):
    """One class in the reference's answers and in the shown hop's.

    reference, candidate: images, pixels or detections that were given the class.
    reference_score, candidate_score: of the class alone, in points of the metric.
    """

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


class Validation(Record):
    """The accuracy account of one exported model.

    guilty: the first hop whose step leaves its limits, or that with the largest drop.
    reason: why the outcome is what it is, in a sentence.
    metric: the dataset's first figure, None without labels.
    shown: the hop that `classes` and `changed` are about.
    refused: images that could not be judged; `unjudged` lists the first of them.
    notes: what a reader must know about these figures.
    reports: the files written, by kind.
    """

    schema_version: Literal[1] = 1
    model: str
    task: Task
    created: str
    command: str
    commands: tuple[str, ...]
    outcome: Outcome
    guilty: str | None
    reason: str
    reference: str
    dataset: str
    images: int
    metric: str | None
    max_drop: float | None
    hops: tuple[HopResult, ...]
    not_run: tuple[NotRun, ...]
    unjudged: tuple[Unjudged, ...]
    refused: int
    shown: str | None
    classes: tuple[ClassChange, ...]
    changed: tuple[ImageChange, ...]
    layers: LayerComparison | None = None
    notes: tuple[str, ...]
    checkpoint: str
    versions: dict[str, str]
    hardware: dict[str, str]
    seconds: float
    reports: dict[str, str] = Field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"

    def hop(self, name: str) -> HopResult:
        return next(hop for hop in self.hops if hop.name == name)


class LayerDifference(Record):
    """One tensor inside two ONNX files, matched by name, in the order of the reference's graph."""

    tensor: str
    operator: str
    max_abs: float
    max_rel: float
    non_finite: int


class LayerComparison(Record):
    """An ONNX file against model.onnx, tensor by tensor, over some images.

    first: the first tensor that leaves the limit, which is relative to its largest value.
    compared: tensors of both files; unmatched: tensors of the reference only.
    """

    hop: str
    file: str
    images: int
    limit: float
    first: LayerDifference | None
    worst: tuple[LayerDifference, ...]
    compared: int
    unmatched: int


def judge(hop: HopResult) -> HopResult:
    """Decide about one hop from its figures.

    What should change nothing must stay within the limits of its step. What changes the
    precision is judged by the dataset's metric where there is a gate, by agreement with the
    reference otherwise.
    """
    if hop.source is None:
        return hop.model_copy(update={"outcome": "reference"})
    if broken := failed_in_step(hop):
        return _decided(hop, "failed", f"against {hop.source}: {_told(broken)}")
    if hop.gate is not None:
        return _decided(hop, hop.gate.verdict, _gate_told(hop.gate))
    broken = [c for c in (*hop.step_checks, *hop.total_checks) if not c.passed]
    if broken:
        return _decided(hop, "failed", _told(broken))
    return _decided(hop, "passed", "")


def accused_of(hops: Sequence[HopResult]) -> HopResult | None:
    """The first hop that failed, else the first about which nothing could be decided."""
    for outcome in ("failed", "inconclusive"):
        for hop in hops:
            if hop.outcome == outcome:
                return hop
    return None


def guilty_of(hops: Sequence[HopResult]) -> str | None:
    """The hop to blame: the accused one where its own step is what failed; else, on the way to
    it, the first that left its step's limits; else the one with the largest drop. None if nobody
    is accused.

    hops: judged, in order.
    """
    accused = accused_of(hops)
    if accused is None:
        return None
    if failed_in_step(accused):
        return accused.name
    by_name = {hop.name: hop for hop in hops}
    way: list[HopResult] = []
    hop = accused
    while hop.source is not None:
        way.insert(0, hop)
        hop = by_name[hop.source]
    for hop in way:
        if not all(check.passed for check in hop.step_checks):
            return hop.name
    drops = [hop.step_drop or 0.0 for hop in way]
    worst = max(range(len(way)), key=lambda i: drops[i])
    return way[worst].name if drops[worst] > _NO_DROP else accused.name


def failed_in_step(hop: HopResult) -> list[Check]:
    """The checks of a hop's own step that no figure of a dataset makes good."""
    return [c for c in hop.step_checks if not c.passed and (not hop.changes or _always(c))]


def _always(check: Check) -> bool:
    return check.name.startswith(("non-finite", "shapes"))


def _decided(hop: HopResult, outcome: Outcome, reason: str) -> HopResult:
    return hop.model_copy(update={"outcome": outcome, "reason": reason})


def _told(checks: list[Check]) -> str:
    return "; ".join(f"{c.name} {c.limit:g}, found {c.figure:.4g}" for c in checks)


def _gate_told(gate: GateFigures) -> str:
    text = (
        f"drop {gate.drop:.2f} points, upper bound {gate.upper_bound:.2f}, limit {gate.limit:g}, "
        f"{gate.images} images"
    )
    if gate.verdict == "inconclusive":
        needed = f"about {gate.images_needed:,}" if gate.images_needed else "more"
        text += f"; {needed} images would decide"
    return text


Validation.model_rebuild()
