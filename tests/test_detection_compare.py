"""Matching detections whatever their order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from dfvt_deploy.evaluate.detections import box_iou, compare_detections


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
    result = compare_detections(found(A, B, C), found(C, A, B))
    assert result.matches.tolist() == [[0, 1], [1, 2], [2, 0]]
    assert (len(result.missing), len(result.extra)) == (0, 0)
    assert result.matched_share() == 1
    assert (result.ious.min(), result.box_px.max(), result.score_differences.max()) == (1, 0, 0)


def test_class_and_place_must_agree():
    other_class = (*A[:5], 7)
    moved = (205, 50, 305, 90, 0.8, 2)
    result = compare_detections(found(A, B, C), found(other_class, moved, C))
    assert result.matches.tolist() == [[2, 2]]
    assert result.missing.tolist() == [0, 1]
    assert result.extra.tolist() == [0, 1]
    assert result.matched_share() == pytest.approx(1 / 3)
    assert result.matched_share(first=2) == 0


def test_differences_are_measured_per_match():
    shifted = (0, 0.5, 100, 100, 0.89, 1)
    masks = np.zeros((2, 2, 2)), np.full((2, 2, 2), 0.25)
    result = compare_detections(found(A, B), found(B, shifted), masks)
    assert result.box_px.tolist() == [0.5, 0]
    np.testing.assert_allclose(result.score_differences, [0.01, 0])
    assert result.mask_differences.tolist() == [0.25, 0.25]
    assert result.matched_share(max_score_difference=1e-4) == 0.5


def test_duplicates_match_one_to_one_by_score():
    low = (*A[:4], 0.3, 1)
    result = compare_detections(found(A, low), found(low, A))
    assert result.matches.tolist() == [[0, 1], [1, 0]]
    assert result.score_differences.max() == 0
    result = compare_detections(found(A, low), found(A))
    assert result.missing.tolist() == [1]


def test_nothing_found():
    nothing = found()
    assert compare_detections(nothing, nothing).matched_share() == 1
    assert compare_detections(nothing, found(A)).extra.tolist() == [0]
    assert compare_detections(found(A), nothing).matched_share() == 0


def test_boxes_without_area_match_at_their_place():
    line, elsewhere = (5, 5, 5, 40, 0.5, 0), (9, 5, 9, 40, 0.5, 0)
    assert compare_detections(found(line), found(line)).matched_share() == 1
    assert compare_detections(found(line), found(elsewhere)).matched_share() == 0
    assert box_iou(found(A).boxes, found(line).boxes)[0, 0] == 0
