"""A converted network beside the FP32 one: how far they agree, and whether that is enough."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..artifact import Check
from ..evaluate.agreement import Agreement, compare_outputs
from ..runners import Runner, Tensors
from ..types import Precision, Task
from .calibration import Feed

#: Logits may differ by this share of the largest one, where that is more than `max_logit`.
LOGIT_SHARE = 0.01

_FIGURES = {
    Task.CLASSIFICATION: ("top1", "share of images with another best class"),
    Task.SEGMENTATION: ("pixels", "share of other pixels"),
    Task.DETECTION: ("matched", "share of detections not matched (score > 0.1, IoU > 0.9)"),
}


@dataclass(frozen=True)
class Limits:
    """How much a conversion may change.

    max_other: share of images with another best class, of pixels with another class, or of
        detections not found again.
    max_logit: largest difference of a classifier's logits; see `LOGIT_SHARE`.
    """

    max_other: float
    max_logit: float | None = None

    def agreeing(self, min_agreement: float | None) -> Limits:
        """The same with another least share of equal answers."""
        if min_agreement is None:
            return self
        return replace(self, max_other=1 - min_agreement)


#: FP16 loses next to nothing. INT8's only find a broken conversion: what it costs is measured on
#: a dataset, and untrained weights, whose answers are near ties, lose most.
DEFAULT_LIMITS: Mapping[tuple[Precision, Task], Limits] = {
    (Precision.FP16, Task.CLASSIFICATION): Limits(0.02, max_logit=0.02),
    (Precision.FP16, Task.SEGMENTATION): Limits(0.005),
    (Precision.FP16, Task.DETECTION): Limits(0.06),
    (Precision.INT8, Task.CLASSIFICATION): Limits(0.3),
    (Precision.INT8, Task.SEGMENTATION): Limits(0.2),
    (Precision.INT8, Task.DETECTION): Limits(0.7),
}


class Comparison:
    """Feeds with the FP32 network's answers, which any candidate is compared with.

    Raises:
        StageFailed: the reference cannot run.
    """

    def __init__(self, task: Task, feeds: Iterable[Feed], reference: Runner) -> None:
        self.task = task
        self.expected: list[tuple[Feed, Tensors]] = [(f, reference.infer(f)) for f in feeds]

    @property
    def feeds(self) -> list[Feed]:
        return [feed for feed, _ in self.expected]

    def agreement(self, candidate: Runner) -> Agreement:
        """Over all feeds."""
        parts = [
            compare_outputs(
                self.task, outputs, candidate.infer(feed), image_sizes=feed.get("image_sizes")
            )
            for feed, outputs in self.expected
        ]
        return sum(parts[1:], parts[0])


def checks(agreement: Agreement, limits: Limits, what: str) -> tuple[Check, ...]:
    """Figures with their limits; `what` says which two were compared."""
    figure, description = _FIGURES[agreement.task]
    images = f"{agreement.images} images"
    found = [
        (f"{description}, {images}", 1 - agreement.figures[figure], limits.max_other),
        (f"values that are not finite, {images}", float(agreement.non_finite), 0.0),
    ]
    if limits.max_logit is not None:
        logits = agreement.tensors["logits"]
        limit = max(limits.max_logit, LOGIT_SHARE * logits.max_reference)
        found.append((f"logits, max abs, {images}", logits.max_abs, limit))
    return tuple(
        Check(
            name=f"{what}, {name}",
            figure=value,
            limit=limit,
            passed=value <= limit + 1e-12,
        )
        for name, value, limit in found
    )


def margin(agreement: Agreement, limits: Limits) -> float:
    """How far the closest figure is from its limit, as a share of it; below 0 it is beyond."""
    if agreement.non_finite:
        return -math.inf
    return min(
        (check.limit - check.figure) / (check.limit or 1) for check in checks(agreement, limits, "")
    )
