"""Results of single images added up, and decided about."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..artifact import Artifact
from ..types import Task
from .agreement import MIN_SCORE, Agreement
from .limits import checks
from .planning import Plan
from .store import ResultStore
from .verdict import (
    ClassChange,
    GateFigures,
    HopResult,
    Outcome,
    Unjudged,
    accused_of,
    guilty_of,
    judge,
)

if TYPE_CHECKING:
    from .metrics import Metric

#: Images that a report shows.
SHOWN_IMAGES = 6

#: Why an agreement of nothing with nothing decides nothing.
NOTHING_FOUND = (
    f"the reference finds nothing above score {MIN_SCORE:g} on these images, so there is nothing "
    "to agree with; take other images, or a checkpoint that has learnt"
)

#: Refused images that a result lists.
_LISTED = 20


@dataclass
class HopSums:
    """One hop's sums.

    results: the metric's, of each image.
    classes: by class id, how much of it was answered.
    worst: the largest changes, as a heap of change, place (negative) and image.
    """

    step: Agreement | None = None
    total: Agreement | None = None
    results: list[Any] = field(default_factory=list)
    classes: dict[int, float] = field(default_factory=dict)
    milliseconds: float = 0
    worst: list[tuple[float, int, str]] = field(default_factory=list)


@dataclass
class Account:
    """Sums over the images. `refusals` could not be judged; `unjudged` are the first of them."""

    metric: Metric | None
    images: int = 0
    unjudged: list[Unjudged] = field(default_factory=list)
    refusals: int = 0
    hops: dict[str, HopSums] = field(default_factory=dict)


def account_of(
    plan: Plan,
    task: Task,
    metric: Metric | None,
    store: ResultStore,
    keys: list[tuple[str, str]],
) -> Account:
    """Add up the stored results, in the dataset's order."""
    account = Account(metric, hops={hop.name: HopSums() for hop in plan.hops})
    for number, line in enumerate(store.read(keys)):
        if "refused" in line:
            account.refusals += 1
            if len(account.unjudged) < _LISTED:
                account.unjudged.append(Unjudged(image=line["id"], **line["refused"]))
            continue
        account.images += 1
        for name, entry in line["hops"].items():
            sums = account.hops[name]
            sums.milliseconds += entry["ms"]
            for class_id, amount in entry["classes"].items():
                sums.classes[int(class_id)] = sums.classes.get(int(class_id), 0) + amount
            if metric is not None:
                sums.results.append(entry["result"])
            if "step" not in entry:
                continue
            step = Agreement.from_json(entry["step"])
            total = Agreement.from_json(entry["total"]) if "total" in entry else step
            sums.step = step if sums.step is None else sums.step + step
            sums.total = total if sums.total is None else sums.total + total
            item = (change_of(task, total), -number, line["id"])
            if len(sums.worst) < SHOWN_IMAGES:
                heapq.heappush(sums.worst, item)
            else:
                heapq.heappushpop(sums.worst, item)
    return account


def change_of(task: Task, total: Agreement) -> float:
    """How much one image's answer changed, for sorting; another best class outweighs scores."""
    figures = total.figures
    if total.counts.get("shapes"):
        return 1000.0
    change = total.counts.get("labels", 0.0)
    if task is Task.CLASSIFICATION:
        gap = max((tensor.max_abs for tensor in total.tensors.values()), default=0.0)
        return change + 100 * (1 - figures["top1"]) + min(gap, 99)
    if task is Task.SEGMENTATION:
        return change + 100 * (1 - figures["pixels"])
    return change + figures["missing"] + figures["extra"] + min(figures.get("score", 0), 0.99)


def judged_hops(
    plan: Plan,
    artifact: Artifact,
    account: Account,
    max_drop: float | None,
) -> dict[str, HopResult]:
    """Every hop with its figures and what was decided about it."""
    metric = account.metric
    task = artifact.manifest.task
    files = artifact.manifest.files
    reference = account.hops[plan.hops[0].name]
    judged: dict[str, HopResult] = {}
    for hop in plan.hops:
        sums = account.hops[hop.name]
        result = HopResult(
            name=hop.name,
            source=hop.source,
            title=hop.title,
            precision=hop.precision,
            changes=hop.changes,
            file=hop.file,
            sha256=files[hop.file].sha256 if hop.file else None,
            step=sums.step,
            total=sums.total,
            step_checks=checks(sums.step, hop.step_limits) if sums.step else (),
            total_checks=checks(sums.total, hop.total_limits(task)) if sums.total else (),
            milliseconds=round(sums.milliseconds / max(account.images, 1), 3),
            outcome="reference",
        )
        if metric is not None and account.images:
            scores = metric.score(sums.results)
            first = metric.names[0]
            update: dict[str, Any] = {"scores": scores}
            if hop.source is not None:
                for key, other in (("drop", plan.hops[0].name), ("step_drop", hop.source)):
                    update[key] = _points(judged[other].scores[first] - scores[first])
                if max_drop is not None:
                    update["gate"] = _gate(metric, reference.results, sums.results, max_drop)
            result = result.model_copy(update=update)
        result = judge(result)
        if result.outcome == "passed" and result.gate is None and not reference.classes:
            result = result.model_copy(update={"outcome": "inconclusive", "reason": NOTHING_FOUND})
        judged[hop.name] = result
    return judged


def _points(difference: float) -> float:
    """Without the rounding of the figures' own arithmetic, and without a negative zero."""
    return round(difference, 9) + 0.0


def _gate(
    metric: Metric, reference: list[Any], candidate: list[Any], max_drop: float
) -> GateFigures:
    from .gate import decide

    decision = decide(metric, reference, candidate, max_drop)
    return GateFigures(
        verdict=decision.verdict,
        drop=decision.drop,
        upper_bound=decision.upper_bound,
        limit=max_drop,
        images=decision.images,
        images_needed=decision.images_needed,
    )


def concluded(hops: Sequence[HopResult], account: Account) -> tuple[str | None, Outcome, str]:
    """The guilty hop, the outcome and the reason."""
    accused, guilty = accused_of(hops), guilty_of(hops)
    if account.refusals:
        total = account.images + account.refusals
        first = account.unjudged[0]
        reason = (
            f"{account.refusals:,} of {total:,} images could not be judged, as {first.image}, "
            f"refused by {first.hop}: {first.reason}"
        )
        return guilty or first.hop, "failed", reason
    if accused is None:
        return None, "passed", "every hop is within its limits"
    if accused.reason == NOTHING_FOUND:
        return None, "inconclusive", NOTHING_FOUND
    reason = f"{accused.name}: {accused.reason}"
    if guilty != accused.name:
        reason += f"; it came in with {guilty}"
    return guilty, "failed" if accused.outcome == "failed" else "inconclusive", reason


def class_changes(
    task: Task,
    metric: Metric | None,
    labels: Sequence[str],
    reference: HopSums,
    candidate: HopSums,
) -> tuple[ClassChange, ...]:
    """What became of each class, those that changed most first; of a detector its boxes' AP."""
    scores = [class_scores(task, metric, sums.results) for sums in (reference, candidate)]
    changes = [
        ClassChange(
            class_id=i,
            label=labels[i] if i < len(labels) else f"class {i}",
            reference=reference.classes.get(i, 0),
            candidate=candidate.classes.get(i, 0),
            reference_score=scores[0].get(i),
            candidate_score=scores[1].get(i),
        )
        for i in sorted({*reference.classes, *candidate.classes, *scores[0], *scores[1]})
    ]
    return tuple(sorted(changes, key=lambda c: (-abs(c.score_change), -abs(c.change), c.class_id)))


def class_scores(task: Task, metric: Metric | None, results: Sequence[Any]) -> dict[int, float]:
    """The metric's first figure of each class of the truth, in points."""
    if metric is None:
        return {}
    if task is Task.CLASSIFICATION:
        by_class: dict[int, list[Any]] = {}
        for result in results:
            by_class.setdefault(result["truth"], []).append(result)
    else:
        ids = {_class_id(entry) for result in results for entry in result["classes"]}
        by_class = {i: [_of_class(result, i) for result in results] for i in ids}
    scores = {i: metric.score(own)[metric.names[0]] for i, own in by_class.items()}
    return {i: score for i, score in scores.items() if score == score}  # without NaN


def _class_id(entry: Any) -> int:
    return int(entry["class"] if isinstance(entry, dict) else entry)


def _of_class(result: Any, class_id: int) -> dict[str, Any]:
    """An image's result as if there were one class only; lists run along `classes`."""
    kept = [i for i, entry in enumerate(result["classes"]) if _class_id(entry) == class_id]
    return {
        name: [value[i] for i in kept] if isinstance(value, list) else value
        for name, value in result.items()
    }
