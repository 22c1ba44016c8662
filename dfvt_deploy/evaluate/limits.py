"""How far one form of a model may be from another, and what would have been needed.

The limits are data: by task, and by the precision that a hop changes to. A hop that changes no
precision (ONNX, simplified, served) is a rewriting of the same computation and may differ by
rounding alone; `FP32` stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..artifact import Check
from ..types import Precision, Task
from .agreement import Agreement


@dataclass(frozen=True)
class Limit:
    """What one figure of an agreement may be: at most `value`, or at least it."""

    figure: str
    value: float
    least: bool = False


#: Of what may come of every comparison.
ALWAYS = (Limit("non-finite values", 0), Limit("shapes that differ", 0))

#: Relative to the largest logit, so that it holds for any scale; `convert` has the same limit.
_FP16_LOGITS = Limit("logits, max relative", 0.01)


def _detections(share: float, mask_iou: float, score: float) -> tuple[Limit, ...]:
    """At least `share` of the reference's detections found again, and at most as many new ones as
    may be missing; over the matched ones the mean IoU of the masks and the mean difference of the
    scores."""
    return (
        Limit("matched", share, least=True),
        Limit("new detections", round(1 - share, 3)),
        Limit("mask_iou", mask_iou, least=True),
        Limit("scores, mean absolute", score),
    )


#: Between outputs of two networks on the same input.
NETWORK: Mapping[Task, Mapping[Precision, tuple[Limit, ...]]] = {
    Task.CLASSIFICATION: {
        Precision.FP32: (Limit("logits, max relative", 1e-4),),
        Precision.FP16: (_FP16_LOGITS, Limit("top1", 0.98, least=True)),
        Precision.INT8: (Limit("top1", 0.95, least=True),),
    },
    Task.SEGMENTATION: {
        Precision.FP32: (Limit("pixels", 0.999, least=True),),
        Precision.FP16: (Limit("pixels", 0.995, least=True),),
        Precision.INT8: (Limit("pixels", 0.97, least=True),),
    },
    Task.DETECTION: {
        Precision.FP32: _detections(share=0.99, mask_iou=0.99, score=0.001),
        Precision.FP16: _detections(share=0.94, mask_iou=0.95, score=0.02),
        Precision.INT8: _detections(share=0.80, mask_iou=0.80, score=0.1),
    },
}

_SAME_LABELS = Limit("labels that differ", 0)

#: Between answers.
ANSWERS: Mapping[Task, Mapping[Precision, tuple[Limit, ...]]] = {
    Task.CLASSIFICATION: {
        Precision.FP32: (
            Limit("scores, max relative", 1e-3),
            Limit("top1", 0.99, least=True),
            _SAME_LABELS,
        ),
        Precision.FP16: (Limit("top1", 0.98, least=True), _SAME_LABELS),
        Precision.INT8: (Limit("top1", 0.95, least=True), _SAME_LABELS),
    },
    Task.SEGMENTATION: NETWORK[Task.SEGMENTATION],
    Task.DETECTION: {
        precision: (*limits, _SAME_LABELS) for precision, limits in NETWORK[Task.DETECTION].items()
    },
}

#: Between tensors that the same code makes of the same image.
IDENTICAL = (Limit("largest difference", 0),)

#: Between answers that the same code makes of the same tensors; numpy's exp may round otherwise.
SAME_CODE: Mapping[Task, tuple[Limit, ...]] = {
    Task.CLASSIFICATION: (
        Limit("top1", 1, least=True),
        Limit("scores, max absolute", 1e-6),
        _SAME_LABELS,
    ),
    Task.SEGMENTATION: (Limit("pixels", 1, least=True),),
    Task.DETECTION: (
        Limit("matched", 1, least=True),
        Limit("extra", 0),
        Limit("mask_iou", 1, least=True),
        _SAME_LABELS,
    ),
}


def figures(agreement: Agreement) -> dict[str, float]:
    """Every figure of an agreement that a limit can be about, by name."""
    found = dict(agreement.figures)
    for name, tensor in agreement.tensors.items():
        found[f"{name}, max absolute"] = tensor.max_abs
        found[f"{name}, mean absolute"] = tensor.mean_abs
        found[f"{name}, max relative"] = tensor.max_rel
        found[f"{name}, cosine"] = tensor.cosine
    found["largest difference"] = max((t.max_abs for t in agreement.tensors.values()), default=0.0)
    found["non-finite values"] = float(agreement.non_finite)
    found["shapes that differ"] = agreement.counts.get("shapes", 0.0)
    if agreement.task is Task.DETECTION:
        wanted = max(agreement.counts.get("reference", 0.0), 1.0)
        found["new detections"] = agreement.counts.get("extra", 0.0) / wanted
    found["labels that differ"] = agreement.counts.get("labels", 0.0)
    return found


def checks(agreement: Agreement, limits: Sequence[Limit]) -> tuple[Check, ...]:
    """An agreement against limits; the figure of each is the limit that it would have needed."""
    found = figures(agreement)
    return tuple(
        Check(
            name=f"{limit.figure} at {'least' if limit.least else 'most'}",
            figure=found[limit.figure],
            limit=limit.value,
            # Written so that a NaN fails.
            passed=found[limit.figure] >= limit.value
            if limit.least
            else found[limit.figure] <= limit.value,
        )
        for limit in (*limits, *ALWAYS)
        if limit.figure in found
    )
