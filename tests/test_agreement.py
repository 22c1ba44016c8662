"""Agreement of two runs: figures on crafted cases, sums over images, and JSON."""

import json

import numpy as np
import pytest

from dfvt_deploy.compare import comparison_of
from dfvt_deploy.compare.agreement import Agreement, checks, compare_tensors, room
from dfvt_deploy.tasks import classification, detection, segmentation
from dfvt_deploy.types import Precision, Task

RNG = np.random.default_rng(0)


def test_tensor_figures_are_those_of_the_definitions():
    a = RNG.normal(size=(3, 7)).astype(np.float32)
    b = a + RNG.normal(size=(3, 7)).astype(np.float32) / 100
    found = compare_tensors(a, b)
    gap = np.abs(a.astype(np.float64) - b)
    assert found.max_abs == gap.max()
    assert found.mean_abs == pytest.approx(gap.mean())
    assert found.max_rel == pytest.approx(gap.max() / np.abs(a).max())
    cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.cosine == pytest.approx(cosine, rel=1e-6)


def test_non_finite_elements_are_counted_and_hide_nothing():
    a = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    b = np.array([1.0, np.inf, np.nan, 4.5], np.float32)
    found = compare_tensors(a, b)
    assert (found.non_finite, found.elements, found.max_abs) == (2, 2, 0.5)
    json.dumps(found.model_dump(), allow_nan=False)


def test_tensors_of_zeros_agree():
    zero = np.zeros(4, np.float32)
    assert compare_tensors(zero, zero).cosine == 1
    assert compare_tensors(zero, zero + 1).cosine == 0


def test_classification_figures():
    logits = np.arange(20, dtype=np.float32).reshape(2, 10)
    other = logits.copy()
    other[1, [9, 8]] = other[1, [8, 9]]  # another best class, the same five
    other[0, 0] = 100  # a new best class, which drives one of the five out
    figures = (
        comparison_of(Task.CLASSIFICATION).outputs({"logits": logits}, {"logits": other}).figures
    )
    assert figures == {"top1": 0, "top5": 0.9}
    same = comparison_of(Task.CLASSIFICATION).outputs({"logits": logits}, {"logits": logits})
    assert same.figures == {"top1": 1, "top5": 1}


def test_segmentation_counts_the_valid_part_only():
    a = np.zeros((1, 4, 4), np.uint8)
    b = a.copy()
    b[0, 0, 0] = 3
    b[0, 3] = 9  # padding
    sizes = np.array([[2, 4]])
    found = comparison_of(Task.SEGMENTATION).outputs({"class_map": a}, {"class_map": b}, sizes)
    assert found.figures == {"pixels": 7 / 8, "miou": (7 / 8 + 0) / 2}
    assert found.areas == {0: (7, 8), 3: (0, 1)}


def network_rows(*rows):
    """Outputs of one image from (box, score, label); the last slots stay unused."""
    outputs = {
        "boxes": np.zeros((1, 5, 4), np.float32),
        "scores": np.zeros((1, 5), np.float32),
        "labels": np.full((1, 5), -1, np.int64),
        "masks": np.zeros((1, 5, 28, 28), np.float32),
        "num_detections": np.array([[len(rows)]], np.int64),
    }
    for i, (box, score, label) in enumerate(rows):
        outputs["boxes"][0, i], outputs["scores"][0, i] = box, score
        outputs["labels"][0, i] = label
        outputs["masks"][0, i, :, :14] = 0.9
    return outputs


A, B, C = (0, 0, 100, 100), (200, 50, 300, 90), (10, 10, 40, 40)


def test_detections_are_matched_without_order():
    reference = network_rows((A, 0.9, 1), (B, 0.8, 2), (C, 0.05, 3))
    candidate = network_rows((B, 0.82, 2), ((1, 0, 101, 100), 0.9, 1), (A, 0.5, 7))
    found = comparison_of(Task.DETECTION).outputs(reference, candidate)
    assert found.figures == {
        "matched": 1,
        "missing": 0,  # C is below the score that is asked for
        "extra": 1,
        "new detections": 0.5,
        "box_iou": pytest.approx((1 + 99 / 101) / 2),
        "mask_iou": 1,
        "box_px": 1,
        "score": pytest.approx(0.02, abs=1e-6),
    }
    lost = comparison_of(Task.DETECTION).outputs(reference, network_rows((A, 0.9, 1)))
    assert (lost.figures["matched"], lost.figures["missing"]) == (0.5, 1)


def test_non_finite_boxes_of_a_detector_are_counted():
    candidate = network_rows((A, 0.9, 1), (B, 0.8, 2))
    candidate["boxes"][0, 1, 2] = np.nan
    found = comparison_of(Task.DETECTION).outputs(network_rows((A, 0.9, 1), (B, 0.8, 2)), candidate)
    assert (found.tensors["boxes"].non_finite, found.figures["missing"]) == (1, 1)


@pytest.mark.parametrize("task", list(Task))
def test_images_add_up_in_any_order_and_through_json(task):
    reference, candidate = _outputs(task, 6, seed=1), _outputs(task, 6, seed=2)
    whole = comparison_of(task).outputs(reference, candidate)
    parts = [
        comparison_of(task).outputs(
            {name: value[i : i + 1] for name, value in reference.items()},
            {name: value[i : i + 1] for name, value in candidate.items()},
        )
        for i in (3, 0, 5, 1, 4, 2)
    ]
    total = sum(parts[1:], parts[0])
    assert total.images == whole.images == 6
    assert total.figures == pytest.approx(whole.figures)
    for name, tensor in whole.tensors.items():
        assert total.tensors[name].max_abs == tensor.max_abs
        assert total.tensors[name].cosine == pytest.approx(tensor.cosine)
    assert Agreement.model_validate_json(total.model_dump_json()) == total


def _outputs(task, count, seed):
    rng = np.random.default_rng(seed)
    if task is Task.CLASSIFICATION:
        return {"logits": rng.normal(size=(count, 12)).astype(np.float32)}
    if task is Task.SEGMENTATION:
        return {"class_map": rng.integers(0, 4, (count, 8, 8)).astype(np.uint8)}
    images = [
        network_rows(*[(np.array(A) + rng.integers(0, 9, 4), rng.uniform(), 1) for _ in range(4)])
        for _ in range(count)
    ]
    return {name: np.concatenate([image[name] for image in images]) for name in images[0]}


@pytest.mark.parametrize("task", list(Task))
def test_answers_agree_as_the_outputs_they_are_made_of_do(task):
    reference, candidate = _outputs(task, 3, seed=1), _outputs(task, 3, seed=2)
    module = {"classification": classification, "segmentation": segmentation}.get(task, detection)
    labels = [f"class {i}" for i in range(12)]
    sizes = np.tile(np.array([8, 8] if task is Task.SEGMENTATION else [120, 120]), (3, 1))
    extra = {} if task is Task.CLASSIFICATION else {"image_sizes": sizes, "original_sizes": sizes}

    def answered(outputs, names=labels):
        return module.postprocess_batch({**outputs, **extra}, names)

    found = comparison_of(task).answers(answered(reference), answered(candidate))
    expected = comparison_of(task).outputs(reference, candidate).figures
    for figure in expected.keys() - {"mask_iou", "box_iou"}:
        assert found.figures[figure] == pytest.approx(expected[figure], abs=1e-6)
    same = comparison_of(task).answers(answered(reference), answered(reference))
    assert same.figures.get("mask_iou", 1) == 1
    if task is not Task.SEGMENTATION:
        assert same.counts["labels that differ"] == 0
        shifted = answered(reference, labels[1:] + labels[:1])
        assert (
            comparison_of(task).answers(answered(reference), shifted).counts["labels that differ"]
            > 0
        )


def test_outputs_of_another_shape_count_as_such():
    compare = comparison_of(Task.CLASSIFICATION).outputs
    logits = np.zeros((1, 3), np.float32)
    for candidate in ({"logits": np.zeros((1, 4), np.float32)}, {}):
        assert compare({"logits": logits}, candidate).counts == {"shapes that differ": 1}


def test_agreements_of_two_tasks_do_not_add_up():
    with pytest.raises(ValueError, match="do not add up"):
        Agreement(task=Task.DETECTION, images=1) + Agreement(task=Task.SEGMENTATION, images=1)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
@pytest.mark.parametrize("task", list(Task))
def test_what_keeps_the_release_limits_keeps_those_that_find_breakage(task, precision):
    comparison = comparison_of(task)
    release = {limit.figure: limit for limit in comparison.limits[precision]}
    for loose in comparison.breakage_limits(precision):
        strict = release[loose.figure]
        assert loose.at_least == strict.at_least
        assert loose.value <= strict.value if loose.at_least else loose.value >= strict.value
    asked = comparison.breakage_limits(Precision.INT8, 0.42)
    assert [limit.value for limit in asked if limit.figure == comparison.share] == [0.42]


def test_room_is_the_closest_limits_and_negative_beyond_one():
    comparison = comparison_of(Task.CLASSIFICATION)
    limits = comparison.limits[Precision.FP16]
    a = np.array([[4.0, 1.0, -4.0]], np.float32)

    def room_of(candidate):
        return room(checks(comparison.outputs({"logits": a}, {"logits": candidate}), limits))

    assert room_of(a + np.float32(0.08)) < 0, "2 % of the largest logit, the limit is 1 %"
    assert room_of(-a) < room_of(a + np.float32(0.08))
    assert room_of(a * np.float32(np.nan)) < 0
    assert room_of(a + np.float32(0.01)) >= 0


@pytest.mark.parametrize(
    ("largest", "difference", "passed"),
    [(157, 1.3e-4, True), (157, 0.02, False), (0.01, 9e-5, True), (0.01, 2e-4, False)],
)
def test_logits_may_differ_relatively_or_where_they_are_small_absolutely(
    largest, difference, passed
):
    comparison = comparison_of(Task.CLASSIFICATION)
    a = np.array([[largest, -largest / 2, 0]])
    agreement = comparison.outputs({"logits": a}, {"logits": a + difference})
    (check, *_) = checks(agreement, comparison.breakage_limits(Precision.FP32))
    assert check.passed == passed, check
