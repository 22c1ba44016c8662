"""What is decided about each stage, which stage is to blame, and the outcome of a validation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..manifest import Check
from .results import Basis, ChanceLevel, GateFigures, Outcome, StageResult, Unjudged

#: Points below which a drop is rounding.
_NO_DROP = 1e-9

_NOTHING_FOUND = (
    "the reference finds nothing on these images that could be compared; take other images, or a "
    "checkpoint that has learnt"
)

_CHANCE_CAUSES = (
    "Likely causes: the weights are untrained; the model's labels are in another order, or are "
    "others, than the dataset's; the preprocessing is not that of the training"
)


@dataclass(frozen=True)
class Conclusion:
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
    if broken := failed_in_step(stage):
        reason = f"against {stage.source}: {format_checks(broken)}"
        return _decided(stage, "failed", Basis.STEP, reason)
    if level is not None and level.at_chance:
        return _decided(stage, "inconclusive", Basis.CHANCE, format_agreement(stage))
    if stage.gate is not None:
        reason = "; ".join(filter(None, (format_gate(stage.gate), format_agreement(stage))))
        return _decided(stage, stage.gate.verdict, Basis.GATE, reason)
    if stage.broken_checks:
        return _decided(stage, "failed", Basis.AGREEMENT, format_checks(stage.broken_checks))
    if finds_nothing:
        return _decided(stage, "inconclusive", Basis.NOTHING_FOUND, _NOTHING_FOUND)
    return _decided(stage, "passed", Basis.AGREEMENT, "")


def _decided(stage: StageResult, outcome: Outcome, basis: Basis, reason: str) -> StageResult:
    return stage.model_copy(update={"outcome": outcome, "basis": basis, "reason": reason})


def failed_in_step(stage: StageResult) -> tuple[Check, ...]:
    """The broken limits of a stage's own step that no score on a dataset outweighs: all limits
    where the stage should change nothing, else values that are not finite and other shapes."""
    return tuple(
        check
        for check in stage.step_checks
        if not check.passed and (not stage.changes or check.kind == "sanity")
    )


def first_undecided_or_failed(stages: Iterable[StageResult]) -> StageResult | None:
    """The first stage that failed, else the first that is inconclusive."""
    ranked = ("failed", "inconclusive")
    found = [stage for stage in stages if stage.outcome in ranked]
    return min(found, key=lambda stage: ranked.index(stage.outcome), default=None)


def culprit_of(stages: Sequence[StageResult]) -> str | None:
    """The stage to blame, among judged stages in their order; None where all passed.

    It is the stage that did not pass, if its own step is the reason. Else it is a stage on the way
    to that one: the first that broke a limit of its step, or the one with the largest drop.
    """
    failed = first_undecided_or_failed(stages)
    if failed is None:
        return None
    if failed.basis is Basis.STEP:
        return failed.name
    by_name = {stage.name: stage for stage in stages}
    way: list[StageResult] = []
    stage = failed
    while stage.source is not None:
        way.insert(0, stage)
        stage = by_name[stage.source]
    for stage in way:
        if not all(check.passed for check in stage.step_checks):
            return stage.name
    largest = max(way, key=lambda stage: stage.step_drop or 0.0)
    return largest.name if (largest.step_drop or 0.0) > _NO_DROP else failed.name


def conclude(
    stages: Sequence[StageResult],
    images: int,
    refused: int,
    unjudged: Sequence[Unjudged],
    metric: str | None = None,
    level: ChanceLevel | None = None,
) -> Conclusion:
    """The outcome of a validation from its judged stages, the numbers of images that were judged
    and refused, the first of these (`unjudged`) and, where there are labels, the name of the
    dataset's first figure and the reference's score beside chance."""
    culprit = culprit_of(stages)
    if refused:
        first = unjudged[0]
        return Conclusion(
            "failed",
            culprit or first.stage,
            f"{refused:,} of {images + refused:,} images could not be judged, such as "
            f"{first.image}, refused by {first.stage}: {first.reason}",
        )
    stage = first_undecided_or_failed(stages)
    if stage is None:
        return Conclusion("passed", None, _format_passed(stages, metric))
    outcome: Outcome = "failed" if stage.outcome == "failed" else "inconclusive"
    if stage.basis is Basis.NOTHING_FOUND:
        return Conclusion(outcome, None, stage.reason)
    if stage.basis is Basis.CHANCE and level is not None:
        return Conclusion(outcome, None, _format_chance(stages, images, metric, level))
    reason = f"{stage.name}: {stage.reason}"
    if culprit != stage.name:
        reason += f"; it came in with {culprit}"
    return Conclusion(outcome, culprit, reason)


def format_checks(checks: Iterable[Check]) -> str:
    """Checks in words, apart by semicolons."""
    return "; ".join(map(str, checks))


def format_agreement(stage: StageResult) -> str:
    """The limits of agreement that a stage breaks, in words; empty where it keeps all."""
    if not stage.broken_checks:
        return ""
    return f"agreement is beyond its limits: {format_checks(stage.broken_checks)}"


def format_gate(gate: GateFigures) -> str:
    """The gate's decision about a stage in words."""
    text = (
        f"drop {gate.drop:.2f} points, upper bound {gate.upper_bound:.2f}, limit {gate.limit:g}, "
        f"{gate.images} images"
    )
    if gate.verdict == "inconclusive":
        needed = f"about {gate.images_needed:,}" if gate.images_needed else "more"
        text += f"; {needed} images would decide"
    return text


def _format_passed(stages: Sequence[StageResult], metric: str | None) -> str:
    gates = [stage.gate for stage in stages if stage.gate is not None]
    if not gates:
        return "every stage is within its limits of agreement"
    text = f"the drop of {metric} is within {gates[0].limit:g} points at every stage"
    beyond = _format_beyond(stages)
    return f"{text}, but {beyond}" if beyond else f"{text}, and so is the agreement of all"


def _format_beyond(stages: Sequence[StageResult]) -> str:
    """The stages whose agreement is beyond its limits, in words."""
    beyond = [stage for stage in stages if stage.broken_checks]
    return "; ".join(f"{stage.name}: {format_agreement(stage)}" for stage in beyond)


def _format_chance(
    stages: Sequence[StageResult], images: int, metric: str | None, level: ChanceLevel
) -> str:
    score = "has no value" if level.score is None else f"is {level.score:.2f}"
    bound = "" if level.lower_bound is None else f" (lower bound {level.lower_bound:.2f})"
    text = (
        f"{metric} of the reference {score}{bound} on {images:,} images, where chance gives "
        f"{level.chance:.2f} and more than {level.needed:.2f} is needed, so no drop can be judged. "
        f"{_CHANCE_CAUSES}"
    )
    beyond = _format_beyond(stages)
    return f"{text}. Besides, {beyond}" if beyond else text
