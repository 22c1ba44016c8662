"""The stored results of single images, added up."""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from ..compare import comparison_of
from ..compare.agreement import Agreement, checks
from ..types import Task
from .build_stages import Stages
from .judge import decide
from .metrics import Metric
from .results import ChanceLevel, ClassChange, ImageChange, StageResult, Unjudged
from .run import ResultStore, StageRecord
from .stages import Stage


@dataclass
class StageSums:
    """One stage's sums over the images: agreement with the stage before it and with the reference,
    the metric's results, how much of each class id was answered, and how much each image changed
    against the reference."""

    step: Agreement | None = None
    total: Agreement | None = None
    results: list[Any] = field(default_factory=list)
    classes: Counter[int] = field(default_factory=Counter)
    milliseconds: float = 0
    changes: list[tuple[str, float]] = field(default_factory=list)

    def add(self, task: Task, image: str, record: StageRecord) -> None:
        self.milliseconds += record.milliseconds
        self.classes.update(record.classes)
        if record.result is not None:
            self.results.append(record.result)
        if record.step is None:
            return
        total = record.total or record.step
        self.step = record.step if self.step is None else self.step + record.step
        self.total = total if self.total is None else self.total + total
        self.changes.append((image, comparison_of(task).change(total)))

    def most_changed(self) -> tuple[ImageChange, ...]:
        """The six images that changed most, the largest change first, of equals the first image."""
        largest = heapq.nlargest(6, self.changes, key=itemgetter(1))
        return tuple(ImageChange(image=i, change=round(c, 6)) for i, c in largest if c > 0)


@dataclass
class Summary:
    """Sums over the images that were judged, and the images that were refused."""

    metric: Metric | None
    stages: dict[str, StageSums]
    images: int = 0
    refused: list[Unjudged] = field(default_factory=list)


def summarise(
    stages: Sequence[Stage], metric: Metric | None, store: ResultStore, digests: Mapping[str, str]
) -> Summary:
    """Add up the stored results of images at the stages; ArtifactError for a damaged one."""
    summary = Summary(metric, {stage.name: StageSums() for stage in stages})
    for image, record in store.read(digests):
        if record.refused is not None:
            summary.refused.append(record.refused)
            continue
        if record.stages.keys() != summary.stages.keys():
            raise store.damaged(f"result of {image}: stages {', '.join(record.stages)}")
        summary.images += 1
        for stage in stages:
            summary.stages[stage.name].add(stage.task, image, record.stages[stage.name])
    return summary


#: Fields of a `Stage` that its result has too.
_SHARED = ("name", "source", "title", "precision", "changes", "file", "fast_decode")


def stage_results(stages: Stages, summary: Summary, level: ChanceLevel | None) -> list[StageResult]:
    """Every stage with its figures, before anything is decided about it. There is a gate where
    --max-drop is given, but not where `level` says that the reference is at chance."""
    metric, files = summary.metric if level else None, stages.manifest.files
    max_drop = stages.options.max_drop
    reference = stages.made[0].name
    scores = {name: metric.score(s.results) if metric else {} for name, s in summary.stages.items()}

    def drop(stage: Stage, before: str) -> float | None:
        if metric is None or stage.source is None:
            return None
        lost = scores[before][metric.names[0]] - scores[stage.name][metric.names[0]]
        return round(lost, 9) + 0.0  # without the arithmetic's rounding, and never a negative zero

    found = []
    for stage in stages.made:
        sums, gate = summary.stages[stage.name], None
        if metric and level and not level.at_chance and max_drop is not None and stage.source:
            gate = decide(metric, summary.stages[reference].results, sums.results, max_drop)
        found.append(
            StageResult(
                **{name: getattr(stage, name) for name in _SHARED},
                sha256=files[stage.file].sha256 if stage.file else None,
                step=sums.step,
                total=sums.total,
                step_checks=checks(sums.step, stage.step_limits) if sums.step else (),
                total_checks=checks(sums.total, stage.total_limits) if sums.total else (),
                scores=scores[stage.name],
                drop=drop(stage, reference),
                step_drop=drop(stage, stage.source or ""),
                gate=gate,
                milliseconds=round(sums.milliseconds / max(summary.images, 1), 3),
                changed=sums.most_changed(),
            )
        )
    return found


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
            reference=before.classes[i],
            candidate=after.classes[i],
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
