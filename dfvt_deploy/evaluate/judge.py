"""The accuracy gate, what is decided about each stage, the stage to blame, and the outcome.

Figures are measured on a sample of images, so they have an error, which a bootstrap estimates: draw
as many images as there are, with repetition, score the models on the drawn images, and repeat. A
quantile of the results is a one-sided 95 % bound. For a drop both models are scored on the same
drawn images, since images on which both are right, or both wrong, hardly add to its error.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..manifest import Check
from .metrics import Metric, Results
from .results import Basis, ChanceLevel, GateFigures, Outcome, StageResult, Unjudged
from .stages import way_to

#: The confidence that a figure is not beyond its bound.
CONFIDENCE = 0.95

#: Points above chance that the reference must reach. Labels in another order leave a few classes
#: right, so a score a little above chance is still a mistake.
CHANCE_MARGIN = 2.0

#: Decimals that a drop is rounded to, because the figures' arithmetic is not exact beyond them.
_DIGITS = 9


def decide(metric: Metric, reference: Results, candidate: Results, max_drop: float) -> GateFigures:
    """Compare the accuracy of two models, by their results for the same images in the same order,
    by the first figure of a metric, which may drop by `max_drop` points."""
    name, count = metric.names[0], len(reference)
    scores = [metric.counted(results, (name,)) for results in (reference, candidate)]

    def drop_on(repeats: NDArray[np.int64]) -> float:
        before, after = (score(repeats)[name] for score in scores)
        return before - after

    drop = upper = round(drop_on(np.ones(count, np.int64)), _DIGITS)
    if any(before != after for before, after in zip(reference, candidate, strict=True)):
        drops = [drop_on(repeats) for repeats in _draws(count, metric.resamples)]
        # The figure of a draw is nan if the draw has no image on which anything can be counted.
        upper = round(float(np.nanquantile(drops, CONFIDENCE)), _DIGITS)
    within: Outcome = "passed" if upper <= max_drop else "inconclusive"
    needed = None
    if drop < max_drop < upper:  # the bound's distance shrinks with the root of the images
        needed = math.ceil(count * ((upper - drop) / (max_drop - drop)) ** 2)
    return GateFigures(
        verdict=within if drop <= max_drop else "failed",
        drop=drop,
        upper_bound=upper,
        limit=max_drop,
        images=count,
        images_needed=needed,
    )


def _draws(count: int, number: int) -> Iterator[NDArray[np.int64]]:
    """How often each of `count` images is in each of a number of draws, int64 (count,)."""
    rng = np.random.default_rng(0)
    return (np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(number))


def chance_level(metric: Metric, results: Results, num_classes: int) -> ChanceLevel:
    """The reference's score beside chance; no drop means anything where it is not better. A few
    images may be right by luck, so it is the lower bound that must be above chance."""
    chance, name, count = metric.chance(num_classes), metric.names[0], len(results)
    score_of = metric.counted(results, (name,))
    score = score_of(np.ones(count, np.int64))[name]
    bound = None
    if not math.isnan(score):
        draws = [score_of(repeats)[name] for repeats in _draws(count, 200)]
        bound = round(float(np.nanquantile(draws, 1 - CONFIDENCE)), 6)
    return ChanceLevel(
        score=None if bound is None else round(score, 6),
        lower_bound=bound,
        chance=round(chance, 6),
        needed=round(chance + CHANCE_MARGIN, 6),
    )


_NOTHING_FOUND = (
    "the reference finds nothing on these images that could be compared; take other images, or a "
    "checkpoint that has learnt"
)

_CHANCE_CAUSES = (
    "Likely causes: the weights are untrained; the model's labels are in another order, or are "
    "others, than the dataset's; the preprocessing is not that of the training"
)


class Conclusion(NamedTuple):
    """The outcome of a validation, the stage to blame for it, and the reason in a sentence."""

    outcome: Outcome
    culprit: str | None
    reason: str


def judge(
    stage: StageResult, level: ChanceLevel | None = None, *, finds_nothing: bool = False
) -> StageResult:
    """Decide about one stage from its figures.

    A stage that should change nothing must keep the limits of its own step. A stage that changes
    the precision, and every stage after it, is judged by the dataset's metric where there is a
    gate, and by agreement otherwise.

    level: the reference's score beside chance, where there are labels.
    finds_nothing: whether the reference finds nothing on any image.
    """
    if stage.source is None:
        return stage
    outcome: Outcome = "inconclusive"
    beyond = _format_agreement(stage)
    if broken := failed_in_step(stage):
        outcome, basis = "failed", Basis.STEP
        reason = f"against {stage.source}: {_format_checks(broken)}"
    elif level is not None and level.at_chance:
        basis, reason = Basis.CHANCE, beyond
    elif stage.gate is not None:
        outcome, basis = stage.gate.verdict, Basis.GATE
        reason = "; ".join(filter(None, (_format_gate(stage.gate), beyond)))
    elif finds_nothing and not beyond:
        basis, reason = Basis.NOTHING_FOUND, _NOTHING_FOUND
    else:
        outcome, basis = "failed" if beyond else "passed", Basis.AGREEMENT
        reason = _format_checks(stage.broken_checks)
    return stage.model_copy(update={"outcome": outcome, "basis": basis, "reason": reason})


def failed_in_step(stage: StageResult) -> list[Check]:
    """The broken limits of a stage's own step that no score on a dataset outweighs: all limits
    where the stage should change nothing, else values that are not finite and other shapes."""
    broken = [check for check in stage.step_checks if not check.passed]
    return [check for check in broken if not stage.changes or check.kind == "sanity"]


def _first_failed(stages: Iterable[StageResult]) -> StageResult | None:
    """The first stage that failed, else the first that is inconclusive."""
    found = [stage for stage in stages if stage.outcome in ("failed", "inconclusive")]
    return min(found, key=lambda stage: stage.outcome != "failed", default=None)


def culprit_of(stages: Sequence[StageResult]) -> str | None:
    """The stage to blame, among judged stages in their order; None where all passed.

    It is the stage that did not pass, if its own step is the reason. Else it is a stage on the way
    to that one: the first that broke a limit of its step, or the one with the largest drop.
    """
    failed = _first_failed(stages)
    if failed is None:
        return None
    if failed.basis is Basis.STEP:
        return failed.name
    way: list[StageResult] = way_to(failed.name, stages)[1:]
    for stage in way:
        if not all(check.passed for check in stage.step_checks):
            return stage.name
    largest = max(way, key=lambda stage: stage.step_drop or 0.0)
    return largest.name if (largest.step_drop or 0.0) > 1e-9 else failed.name  # no rounding


def conclude(
    stages: Sequence[StageResult],
    images: int,
    refused: Sequence[Unjudged],
    metric: str | None = None,
    level: ChanceLevel | None = None,
) -> Conclusion:
    """The outcome of a validation from its judged stages, the number of images that were judged,
    those that were refused and, where there are labels, the name of the dataset's first figure and
    the reference's score beside chance."""
    culprit = culprit_of(stages)
    if refused:
        first = refused[0]
        reason = (
            f"{len(refused):,} of {images + len(refused):,} images could not be judged, such as "
            f"{first.image}, refused by {first.stage}: {first.reason}"
        )
        return Conclusion("failed", culprit or first.stage, reason)
    stage = _first_failed(stages)
    beyond = "; ".join(f"{s.name}: {text}" for s in stages if (text := _format_agreement(s)))
    if stage is None:
        return Conclusion("passed", None, _format_passed(stages, beyond, metric))
    outcome: Outcome = "failed" if stage.outcome == "failed" else "inconclusive"
    if stage.basis is Basis.NOTHING_FOUND:
        return Conclusion(outcome, None, stage.reason)
    if stage.basis is Basis.CHANCE and level is not None:
        besides = f". Besides, {beyond}" if beyond else ""
        return Conclusion(outcome, None, _format_chance(images, metric, level) + besides)
    reason = f"{stage.name}: {stage.reason}"
    if culprit != stage.name:
        reason += f"; it came in with {culprit}"
    return Conclusion(outcome, culprit, reason)


def _format_checks(checks: Iterable[Check]) -> str:
    return "; ".join(map(str, checks))


def _format_agreement(stage: StageResult) -> str:
    """The limits of agreement that a stage breaks, in words; empty where it keeps all."""
    broken = _format_checks(stage.broken_checks)
    return broken and f"agreement is beyond its limits: {broken}"


def _format_gate(gate: GateFigures) -> str:
    text = (
        f"drop {gate.drop:.2f} points, upper bound {gate.upper_bound:.2f}, limit {gate.limit:g}, "
        f"{gate.images} images"
    )
    if gate.verdict == "inconclusive":
        needed = f"about {gate.images_needed:,}" if gate.images_needed else "more"
        text += f"; {needed} images would decide"
    return text


def _format_passed(stages: Sequence[StageResult], beyond: str, metric: str | None) -> str:
    limit = next((stage.gate.limit for stage in stages if stage.gate), None)
    if limit is None:
        return "every stage is within its limits of agreement"
    text = f"the drop of {metric} is within {limit:g} points at every stage"
    return f"{text}, but {beyond}" if beyond else f"{text}, and so is the agreement of all"


def _format_chance(images: int, metric: str | None, level: ChanceLevel) -> str:
    score = "has no value" if level.score is None else f"is {level.score:.2f}"
    bound = "" if level.lower_bound is None else f" (lower bound {level.lower_bound:.2f})"
    return (
        f"{metric} of the reference {score}{bound} on {images:,} images, where chance gives "
        f"{level.chance:.2f} and more than {level.needed:.2f} is needed, so no drop can be judged. "
        f"{_CHANCE_CAUSES}"
    )
