"""Comparison of classifiers: logits, and the ranking of classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runners import Tensors
from ..tasks.classification import TOP_K
from ..types import Precision, Task
from . import TaskComparison
from .agreement import OTHER_LABELS, SAME_LABELS, Agreement, Limit, compare_tensors


def _compare_outputs(
    reference: Tensors, candidate: Tensors, image_sizes: NDArray[Any] | None
) -> Agreement:
    a, b = reference["logits"], candidate["logits"]
    best = (np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K] for logits in (a, b))
    return _compare_ranking(*best, tensors={"logits": compare_tensors(a, b, unit=1)})


def _compare_answers(reference: Tensors, candidate: Tensors) -> Agreement:
    return _compare_ranking(
        reference["class_ids"],
        candidate["class_ids"],
        tensors={"scores": compare_tensors(reference["scores"], candidate["scores"])},
        counts={OTHER_LABELS: _other_labels(reference, candidate)},
    )


def _compare_ranking(a: NDArray[Any], b: NDArray[Any], **more: Any) -> Agreement:
    """Compare class ids (N, k), best first; `more` are other fields of the agreement."""
    shared = sum(len(np.intersect1d(x, y)) for x, y in zip(a, b, strict=True))
    top1 = (float((a[:, 0] == b[:, 0]).sum()), len(a))
    shares = {"top1": top1, "top5": (float(shared), float(a.size))}
    return Agreement(task=Task.CLASSIFICATION, images=len(a), shares=shares, **more)


def _other_labels(reference: Tensors, candidate: Tensors) -> float:
    """How many classes that both answers hold have another label in each."""
    names = [
        dict(zip(side["class_ids"].ravel(), side["labels"].ravel(), strict=True))
        for side in (reference, candidate)
    ]
    return float(sum(names[1].get(i, name) != name for i, name in names[0].items()))


def _change(agreement: Agreement) -> float:
    """Another best class outweighs the scores."""
    gap = max((tensor.max_abs for tensor in agreement.tensors.values()), default=0.0)
    return 100 * (1 - agreement.figures["top1"]) + min(gap, 99)


_SCORES = Limit("scores, max relative", 1e-3)
_FP16 = (Limit("top1", 0.98, at_least=True),)
_BF16 = (Limit("top1", 0.97, at_least=True),)
_INT8 = (Limit("top1", 0.95, at_least=True),)

COMPARISON = TaskComparison(
    task=Task.CLASSIFICATION,
    compare_outputs=_compare_outputs,
    compare_answers=_compare_answers,
    limits={
        Precision.FP32: (Limit("logits, max relative", 1e-4),),
        Precision.FP16: (Limit("logits, max relative", 0.01), *_FP16),
        Precision.BF16: (Limit("logits, max relative", 0.03), *_BF16),
        Precision.INT8: _INT8,
    },
    answer_limits={
        Precision.FP32: (_SCORES, Limit("top1", 0.99, at_least=True), SAME_LABELS),
        Precision.FP16: (*_FP16, SAME_LABELS),
        Precision.BF16: (*_BF16, SAME_LABELS),
        Precision.INT8: (*_INT8, SAME_LABELS),
    },
    same_code_limits=(
        Limit("top1", 1, at_least=True),
        Limit("scores, max absolute", 1e-6),  # numpy's exp may round differently
        SAME_LABELS,
    ),
    class_counts=lambda answers: {int(answers["class_ids"].flat[0]): 1},
    answer_change=_change,
    share="top1",
    share_title="images with the reference's best class",
    breakage={Precision.INT8: (Limit("top1", 0.7, at_least=True, kind="breakage"),)},
)
