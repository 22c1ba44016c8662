"""The stored results of single images, added up."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from ..artifact import Artifact
from ..compare import comparison_of
from ..compare.agreement import Agreement, checks
from ..types import Task
from .judge import chance_level, decide
from .metrics import Metric
from .results import ChanceLevel, ClassChange, ImageChange, StageResult, Unjudged
from .run import Key, ResultStore, StageRecord
from .stages import Stage

#: Images that a report shows.
SHOWN_IMAGES = 6

#: Refused images that a result lists.
_LISTED = 20


@dataclass
class StageSums:
    """One stage's sums over the images: agreement with the stage before it and with the reference,
    the metric's results, how much of each class id was answered, and how much each image changed
    against the reference."""

    step: Agreement | None = None
    total: Agreement | None = None
    results: list[Any] = field(default_factory=list)
    classes: dict[int, float] = field(default_factory=dict)
    milliseconds: float = 0
    changes: list[tuple[str, float]] = field(default_factory=list)

    def add(self, task: Task, image: str, record: StageRecord) -> None:
        self.milliseconds += record.milliseconds
        for class_id, amount in record.classes.items():
            self.classes[class_id] = self.classes.get(class_id, 0) + amount
        if record.result is not None:
            self.results.append(record.result)
        if record.step is None:
            return
        total = record.total or record.step
        self.step = record.step if self.step is None else self.step + record.step
        self.total = total if self.total is None else self.total + total
        self.changes.append((image, comparison_of(task).change(total)))

    def most_changed(self) -> tuple[ImageChange, ...]:
        """The images that changed most, the largest change first, of equals the first image."""
        largest = heapq.nlargest(SHOWN_IMAGES, self.changes, key=itemgetter(1))
        return tuple(ImageChange(image=i, change=round(c, 6)) for i, c in largest if c > 0)


@dataclass
class Summary:
    """Sums over the images that were judged; `unjudged` lists the first that were refused."""

    metric: Metric | None
    stages: dict[str, StageSums]
    images: int = 0
    refused: int = 0
    unjudged: list[Unjudged] = field(default_factory=list)


def summarise(
    stages: Sequence[str], task: Task, metric: Metric | None, store: ResultStore, keys: list[Key]
) -> Summary:
    """Add up the stored results of images at the named stages; ArtifactError for a damaged one."""
    summary = Summary(metric, {name: StageSums() for name in stages})
    for image, record in store.read(keys):
        if record.refused is not None:
            summary.refused += 1
            if len(summary.unjudged) < _LISTED:
                summary.unjudged.append(record.refused)
            continue
        if record.stages.keys() != summary.stages.keys():
            raise store.damaged(f"result of {image}: stages {', '.join(record.stages)}")
        summary.images += 1
        for name, sums in summary.stages.items():
            sums.add(task, image, record.stages[name])
    return summary


def reference_level(summary: Summary, reference: str, num_classes: int) -> ChanceLevel | None:
    """The reference's score beside chance; None without labels or without a judged image."""
    if summary.metric is None or not summary.images:
        return None
    return chance_level(summary.metric, summary.stages[reference].results, num_classes)


#: Fields of a `Stage` that its result has too.
_SHARED = ("name", "source", "title", "precision", "changes", "file", "fast_decode")


def stage_results(
    stages: Sequence[Stage],
    artifact: Artifact,
    summary: Summary,
    max_drop: float | None,
    level: ChanceLevel | None,
) -> list[StageResult]:
    """Every stage with its figures, before anything is decided about it. There is a gate with the
    limit `max_drop` in points, but not where `level` says that the reference is at chance."""
    found: dict[str, StageResult] = {}
    for stage in stages:
        sums = summary.stages[stage.name]
        result = StageResult(
            **{name: getattr(stage, name) for name in _SHARED},
            sha256=artifact.manifest.files[stage.file].sha256 if stage.file else None,
            step=sums.step,
            total=sums.total,
            step_checks=checks(sums.step, stage.step_limits) if sums.step else (),
            total_checks=checks(sums.total, stage.total_limits) if sums.total else (),
            milliseconds=round(sums.milliseconds / max(summary.images, 1), 3),
            changed=sums.most_changed(),
        )
        if level is not None:
            gate_limit = None if level.at_chance else max_drop
            update = _scores(stage, stages[0].name, summary, found, gate_limit)
            result = result.model_copy(update=update)
        found[stage.name] = result
    return list(found.values())


def _scores(
    stage: Stage,
    reference: str,
    summary: Summary,
    found: Mapping[str, StageResult],
    gate_limit: float | None,
) -> dict[str, Any]:
    """The stage's scores, what they lost, and the gate's decision."""
    metric = summary.metric
    assert metric is not None
    results = summary.stages[stage.name].results
    scores, first = metric.score(results), metric.names[0]
    if stage.source is None:
        return {"scores": scores}
    update: dict[str, Any] = {
        "scores": scores,
        "drop": _points(found[reference].scores[first] - scores[first]),
        "step_drop": _points(found[stage.source].scores[first] - scores[first]),
    }
    if gate_limit is not None:
        of_reference = summary.stages[reference].results
        update["gate"] = decide(metric, of_reference, results, gate_limit)
    return update


def _points(difference: float) -> float:
    """Without the rounding of the figures' own arithmetic, and without a negative zero."""
    return round(difference, 9) + 0.0


def class_changes(
    summary: Summary, labels: Sequence[str], reference: str, candidate: str
) -> tuple[ClassChange, ...]:
    """Every class that two stages answered or that is in the truth; most changed first."""
    before, after = summary.stages[reference], summary.stages[candidate]
    old, new = (_class_scores(summary.metric, sums.results) for sums in (before, after))
    changes = [
        ClassChange(
            class_id=i,
            label=labels[i] if i < len(labels) else f"class {i}",
            reference=before.classes.get(i, 0),
            candidate=after.classes.get(i, 0),
            reference_score=old.get(i),
            candidate_score=new.get(i),
        )
        for i in {*before.classes, *after.classes, *old, *new}
    ]
    return tuple(sorted(changes, key=lambda c: (-abs(c.score_change), -abs(c.change), c.class_id)))


def _class_scores(metric: Metric | None, results: Sequence[Any]) -> dict[int, float]:
    """The metric's first figure of each class of the truth alone, in points."""
    if metric is None:
        return {}
    by_class: dict[int, list[Any]] = {}
    for result in results:
        for class_id, own in _by_class(result).items():
            by_class.setdefault(class_id, []).append(own)
    scores = {i: metric.score(own)[metric.names[0]] for i, own in by_class.items()}
    return {i: score for i, score in scores.items() if score == score}  # without NaN


def _by_class(result: Any) -> dict[int, dict[str, Any]]:
    """An image's result as one result for each class that it is about."""
    if "truth" in result:  # one class an image
        return {result["truth"]: result}
    found = {}
    for position, entry in enumerate(result["classes"]):
        class_id = int(entry["class"] if isinstance(entry, dict) else entry)
        # The lists of a result have one entry for each of its classes.
        found[class_id] = {
            name: [value[position]] if isinstance(value, list) else value
            for name, value in result.items()
        }
    return found
