"""Matching detections whatever their order."""

from dataclasses import dataclass

import numpy as np

from dfvt_deploy.compare.detection import box_iou, match_detections


@dataclass(frozen=True)
class Found:
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def found(*rows):
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    return Found(boxes, np.array([row[4] for row in rows]), np.array([row[5] for row in rows]))


A = (0, 0, 100, 100, 0.9, 1)
B = (200, 50, 300, 90, 0.8, 2)
C = (10, 10, 40, 40, 0.7, 1)


def test_order_does_not_matter():
    result = match_detections(found(A, B, C), found(C, A, B))
    assert result.pairs.tolist() == [[0, 1], [1, 2], [2, 0]]
    assert (len(result.missing), len(result.extra)) == (0, 0)
    assert (result.ious.min(), result.box_px.max(), result.score_gaps.max()) == (1, 0, 0)


def test_class_and_place_must_agree():
    other_class = (*A[:5], 7)
    moved = (220, 50, 320, 90, 0.8, 2)
    result = match_detections(found(A, B, C), found(other_class, moved, C))
    assert result.pairs.tolist() == [[2, 2]]
    assert result.missing.tolist() == [0, 1]
    assert result.extra.tolist() == [0, 1]


def test_differences_are_measured_per_match():
    shifted = (0, 0.5, 100, 100, 0.89, 1)
    result = match_detections(found(A, B), found(B, shifted))
    assert result.box_px.tolist() == [0.5, 0]
    np.testing.assert_allclose(result.score_gaps, [0.01, 0])


def test_duplicates_match_one_to_one_by_score():
    low = (*A[:4], 0.3, 1)
    result = match_detections(found(A, low), found(low, A))
    assert result.pairs.tolist() == [[0, 1], [1, 0]]
    assert result.score_gaps.max() == 0
    result = match_detections(found(A, low), found(A))
    assert result.missing.tolist() == [1]


def test_low_scores_are_not_asked_for():
    low = (*A[:4], 0.05, 1)
    result = match_detections(
        found(low, B), found((*B[:4], 0.01, 2), C, (*C[:4], 0.05, 3)), min_score=0.1
    )
    assert result.pairs.tolist() == [[1, 0]], "the candidate's score may be low"
    assert (result.missing.tolist(), result.extra.tolist()) == ([], [1])


def test_nothing_found():
    nothing = found()
    assert match_detections(nothing, nothing).pairs.shape == (0, 2)
    assert match_detections(nothing, found(A)).extra.tolist() == [0]
    assert match_detections(found(A), nothing).missing.tolist() == [0]


def test_boxes_without_area_match_at_their_place():
    line, elsewhere = (5, 5, 5, 40, 0.5, 0), (9, 5, 9, 40, 0.5, 0)
    assert len(match_detections(found(line), found(line)).pairs) == 1
    assert len(match_detections(found(line), found(elsewhere)).pairs) == 0
    assert box_iou(found(A).boxes, found(line).boxes)[0, 0] == 0
