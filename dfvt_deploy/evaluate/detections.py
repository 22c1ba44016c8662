"""Compare two sets of detections of one image, whatever their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: Detections of one class that overlap by more than this are the same.
MIN_IOU = 0.98

#: Boxes without area have no IoU; they are the same when no side is further off, in pixels.
EMPTY_BOX_TOLERANCE = 0.02


class DetectionArrays(Protocol):
    """`boxes` (n, 4) xyxy in pixels, `scores` (n,), `labels` (n,), best first."""

    @property
    def boxes(self) -> Any: ...
    @property
    def scores(self) -> Any: ...
    @property
    def labels(self) -> Any: ...


@dataclass(frozen=True)
class DetectionComparison:
    """How one image's detections differ from the reference.

    `matches` int64 (m, 2): rows of the reference and of the candidate, in the reference's order;
    `missing` and `extra`: rows found in only one of them, int64. Per match: `ious`; `box_px`, the
    furthest that a side moved; `score_differences`, absolute; `mask_differences`, the largest of
    each mask's probabilities, or empty where masks were not given.
    """

    matches: NDArray[np.int64]
    missing: NDArray[np.int64]
    extra: NDArray[np.int64]
    ious: NDArray[np.float64]
    box_px: NDArray[np.float64]
    score_differences: NDArray[np.float64]
    mask_differences: NDArray[np.float64]

    def matched_share(
        self, first: int | None = None, max_score_difference: float = np.inf
    ) -> float:
        """Share of the reference's detections (of its `first`) that were found again.

        A match whose score differs by more does not count. 1.0 if there is nothing to find.
        """
        total = len(self.matches) + len(self.missing)
        total = total if first is None else min(first, total)
        good = (self.score_differences <= max_score_difference) & (self.matches[:, 0] < total)
        return float(good.sum() / total) if total else 1.0


def compare_detections(
    reference: DetectionArrays,
    candidate: DetectionArrays,
    masks: tuple[NDArray[Any], NDArray[Any]] | None = None,
    min_iou: float = MIN_IOU,
) -> DetectionComparison:
    """Match one to one by class and IoU above `min_iou`, the most alike first.

    masks: probabilities (n, h, w) of the reference and of the candidate.
    """
    boxes_a, boxes_b = _floats(reference.boxes), _floats(candidate.boxes)
    scores_a, scores_b = _floats(reference.scores), _floats(candidate.scores)
    labels_a, labels_b = np.asarray(reference.labels), np.asarray(candidate.labels)
    iou = box_iou(boxes_a, boxes_b)
    score_gap = np.abs(scores_a[:, None] - scores_b)
    rows, cols = np.nonzero((iou > min_iou) & (labels_a[:, None] == labels_b))
    free_a, free_b = np.ones(len(boxes_a), np.bool_), np.ones(len(boxes_b), np.bool_)
    pairs = []
    for i in np.lexsort((score_gap[rows, cols], -iou[rows, cols])):
        if free_a[rows[i]] and free_b[cols[i]]:
            free_a[rows[i]] = free_b[cols[i]] = False
            pairs.append((rows[i], cols[i]))
    matches = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    a, b = matches.T
    mask_differences = np.zeros(0)
    if masks is not None:
        gap = np.abs(_floats(masks[0])[a] - _floats(masks[1])[b])
        mask_differences = gap.max(axis=(1, 2), initial=0)
    return DetectionComparison(
        matches=matches,
        missing=np.flatnonzero(free_a),
        extra=np.flatnonzero(free_b),
        ious=iou[a, b],
        box_px=np.abs(boxes_a[a] - boxes_b[b]).max(axis=1, initial=0),
        score_differences=score_gap[a, b],
        mask_differences=mask_differences,
    )


def box_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of boxes (n, 4) and (m, 4), (n, m).

    A box without area has IoU 1 with one at the same place and 0 with any other.
    """
    a, b = _floats(a)[:, None], _floats(b)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = sides.clip(min=0).prod(-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b))
    union = area_a + area_b - intersection
    same = np.abs(a - b).max(-1) <= EMPTY_BOX_TOLERANCE
    either_empty = (area_a <= 0) | (area_b <= 0)
    return np.where(either_empty, same, intersection / np.where(either_empty, 1, union))


def _floats(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, np.float64)
