"""Comparison of detectors: which detections are found again, and how alike they are."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..runners import Tensors
from ..tasks import rle
from ..tasks.detection import MASK_THRESHOLD, result_from_answers
from ..types import Precision, Task
from . import TaskComparison
from .agreement import OTHER_LABELS, SAME_LABELS, Agreement, Limit, compare_tensors, total

#: A detection of the reference with this score or less need not be found again.
MIN_SCORE = 0.1

#: Detections of one class whose boxes overlap by more than this IoU are the same.
MIN_IOU = 0.9

#: Boxes without area have no IoU; they are the same when no side is further off, in pixels.
EMPTY_BOX_TOLERANCE = 0.02


class DetectionMatches(NamedTuple):
    """Which detections of a reference a candidate finds again.

    pairs: int64 (m, 2), rows of the reference and of the candidate, in the reference's order.
    missing, extra: int64, rows that only the reference or only the candidate has.
    ious, score_gaps: float64 (m,), IoU of the boxes and absolute difference of the scores.
    box_px: float64 (m,), how far the side that moved most moved, in pixels.
    """

    pairs: NDArray[np.int64]
    missing: NDArray[np.int64]
    extra: NDArray[np.int64]
    ious: NDArray[np.float64]
    score_gaps: NDArray[np.float64]
    box_px: NDArray[np.float64]


def match_detections(
    reference: Any, candidate: Any, *, min_score: float = 0.0, min_iou: float = MIN_IOU
) -> DetectionMatches:
    """Match the detections of one image one to one by class and IoU above `min_iou`, the most alike
    first, whatever their order.

    reference, candidate: have `boxes` (n, 4) xyxy in pixels, `scores` (n,) and `labels` (n,). One
        of the reference with `min_score` or less is neither matched nor missing, and one of the
        candidate is not extra.
    """
    boxes_a, boxes_b = _floats(reference.boxes), _floats(candidate.boxes)
    scores_a, scores_b = _floats(reference.scores), _floats(candidate.scores)
    labels_a, labels_b = np.asarray(reference.labels), np.asarray(candidate.labels)
    iou = box_iou(boxes_a, boxes_b)
    score_gaps = np.abs(scores_a[:, None] - scores_b)
    rows, cols = np.nonzero((iou > min_iou) & (labels_a[:, None] == labels_b))
    free_a, free_b = np.ones(len(boxes_a), np.bool_), np.ones(len(boxes_b), np.bool_)
    found = []
    for i in np.lexsort((score_gaps[rows, cols], -iou[rows, cols])):
        if free_a[rows[i]] and free_b[cols[i]]:
            free_a[rows[i]] = free_b[cols[i]] = False
            found.append((rows[i], cols[i]))
    pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
    pairs = pairs[scores_a[pairs[:, 0]] > min_score]
    a, b = pairs.T
    return DetectionMatches(
        pairs=pairs,
        missing=np.flatnonzero(free_a & (scores_a > min_score)),
        extra=np.flatnonzero(free_b & (scores_b > min_score)),
        ious=iou[a, b],
        score_gaps=score_gaps[a, b],
        box_px=np.abs(boxes_a[a] - boxes_b[b]).max(axis=1, initial=0),
    )


def box_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """IoU (n, m) of boxes (n, 4) and (m, 4); a box without area equals one at its place."""
    rows, columns = _floats(a)[:, None], _floats(b)[None]
    least = np.minimum(rows[..., 2:], columns[..., 2:])
    intersection = (least - np.maximum(rows[..., :2], columns[..., :2])).clip(min=0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (rows, columns))
    union = area_a + area_b - intersection
    same = np.abs(rows - columns).max(-1) <= EMPTY_BOX_TOLERANCE
    either_empty = (area_a <= 0) | (area_b <= 0)
    return np.where(either_empty, same, intersection / np.where(either_empty, 1, union))


def _floats(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)


class _Detections(NamedTuple):
    """One image's detections: boxes (n, 4) xyxy in pixels, scores, labels, masks, what makes one
    of these bool (h, w), and, if known, the names of the labels."""

    boxes: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[Any]
    masks: Sequence[Any]
    binary: Callable[[Any], NDArray[np.bool_]]
    names: NDArray[Any] | None = None


def _compare(
    detections_of: Callable[[Tensors], Iterator[_Detections]],
    reference: Tensors,
    candidate: Tensors,
    *_image_sizes: object,
) -> Agreement:
    images = zip(detections_of(reference), detections_of(candidate), strict=True)
    return total(Task.DETECTION, (_compare_detections(*pair) for pair in images))


def _from_outputs(outputs: Tensors) -> Iterator[_Detections]:
    """The detections of each image among a network's outputs, without the unused rows."""
    for i, used in enumerate(outputs["labels"] >= 0):
        names = ("boxes", "scores", "labels", "masks")
        boxes, scores, labels, masks = (outputs[name][i][used] for name in names)
        yield _Detections(boxes, scores, labels, masks, lambda mask: mask >= MASK_THRESHOLD)


def _from_answers(answers: Tensors) -> Iterator[_Detections]:
    """The detections of each image among a served model's answers."""
    for i, names in enumerate(answers["labels"]):
        one = result_from_answers({name: value[i] for name, value in answers.items()})
        yield _Detections(one.boxes, one.scores, one.labels, one.masks, rle.decode, names)


def _compare_detections(a: _Detections, b: _Detections) -> Agreement:
    matches = match_detections(a, b, min_score=MIN_SCORE)
    pairs = matches.pairs
    mask_ious = [_mask_iou(a.binary(a.masks[i]), b.binary(b.masks[j])) for i, j in pairs]
    reference, matched = float(len(pairs) + len(matches.missing)), float(len(pairs))
    counts = {"missing": float(len(matches.missing)), "extra": float(len(matches.extra))}
    if a.names is not None and b.names is not None:
        counts[OTHER_LABELS] = float(sum(a.names[i] != b.names[j] for i, j in pairs))
    tensors = {}
    for name in ("boxes", "scores"):
        before, after = getattr(a, name), getattr(b, name)
        compared = compare_tensors(before[pairs[:, 0]], after[pairs[:, 1]])
        # Rows that are not finite match nothing, and are counted too.
        non_finite = int((~np.isfinite(after)).sum())
        tensors[name] = compared.model_copy(update={"non_finite": non_finite})
    return Agreement(
        task=Task.DETECTION,
        images=1,
        tensors=tensors,
        shares={
            "matched": (matched, reference),
            "box_iou": (float(matches.ious.sum()), matched),
            "mask_iou": (float(sum(mask_ious)), matched),
        },
        rates={"new detections": (counts["extra"], reference)},
        counts=counts,
        worst={
            "box_px": float(matches.box_px.max(initial=0)),
            "score": float(matches.score_gaps.max(initial=0)),
        },
    )


def _mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    if a.shape != b.shape:
        raise ValueError(f"a mask is {b.shape}, the reference's {a.shape}")
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def _class_counts(answers: Tensors) -> Counter[int]:
    """Detections above `MIN_SCORE` by class id."""
    counted = (answers["scores"] > MIN_SCORE) & (answers["class_ids"] >= 0)
    return Counter(answers["class_ids"][counted].tolist())


def _change(agreement: Agreement) -> float:
    figures = agreement.figures
    return figures["missing"] + figures["extra"] + min(figures["score"], 0.99)


def _limits(share: float, mask_iou: float, score: float) -> tuple[Limit, ...]:
    """Limits for a detector: the least share of the reference's detections that is found again (as
    many may be new as may be missing), the least mean IoU of the masks of matched detections, and
    the largest mean difference of their scores."""
    return (
        Limit("matched", share, at_least=True),
        Limit("new detections", round(1 - share, 3)),
        Limit("mask_iou", mask_iou, at_least=True),
        Limit("scores, mean absolute", score),
    )


_LIMITS = {
    Precision.FP32: (
        *_limits(share=0.99, mask_iou=0.99, score=0.001),
        Limit("box_iou", 0.98, at_least=True),
    ),
    Precision.FP16: _limits(share=0.94, mask_iou=0.95, score=0.02),
    Precision.BF16: _limits(share=0.9, mask_iou=0.93, score=0.03),
    Precision.INT8: _limits(share=0.80, mask_iou=0.80, score=0.1),
}

COMPARISON = TaskComparison(
    task=Task.DETECTION,
    compare_outputs=partial(_compare, _from_outputs),
    compare_answers=partial(_compare, _from_answers),
    limits=_LIMITS,
    answer_limits={precision: (*limits, SAME_LABELS) for precision, limits in _LIMITS.items()},
    same_code_limits=(
        Limit("matched", 1, at_least=True),
        Limit("extra", 0),
        Limit("mask_iou", 1, at_least=True),
        SAME_LABELS,
    ),
    class_counts=_class_counts,
    answer_change=_change,
    share="matched",
    share_title="detections of the reference found again",
    breakage={
        Precision.FP16: (Limit("matched", 0.94, at_least=True, kind="breakage"),),
        Precision.INT8: (Limit("matched", 0.3, at_least=True, kind="breakage"),),
    },
)
