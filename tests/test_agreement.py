"""Agreement of two runs: figures on crafted cases, sums over images, and JSON."""

import json

import numpy as np
import pytest

from dfvt_deploy.evaluate.agreement import (
    Agreement,
    compare_answers,
    compare_outputs,
    compare_tensors,
)
from dfvt_deploy.tasks import classification, detection, segmentation
from dfvt_deploy.types import Task

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
    figures = compare_outputs(Task.CLASSIFICATION, {"logits": logits}, {"logits": other}).figures
    assert figures == {"top1": 0, "top5": 0.9}
    same = compare_outputs(Task.CLASSIFICATION, {"logits": logits}, {"logits": logits})
    assert same.figures == {"top1": 1, "top5": 1}


def test_segmentation_counts_the_valid_part_only():
    a = np.zeros((1, 4, 4), np.uint8)
    b = a.copy()
    b[0, 0, 0] = 3
    b[0, 3] = 9  # padding
    sizes = np.array([[2, 4]])
    found = compare_outputs(Task.SEGMENTATION, {"class_map": a}, {"class_map": b}, sizes)
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
    found = compare_outputs(Task.DETECTION, reference, candidate)
    assert found.figures == {
        "matched": 1,
        "missing": 0,  # C is below the score that is asked for
        "extra": 1,
        "mask_iou": 1,
        "box_px": 1,
        "score": pytest.approx(0.02, abs=1e-6),
    }
    lost = compare_outputs(Task.DETECTION, reference, network_rows((A, 0.9, 1)))
    assert (lost.figures["matched"], lost.figures["missing"]) == (0.5, 1)


def test_non_finite_boxes_of_a_detector_are_counted():
    candidate = network_rows((A, 0.9, 1), (B, 0.8, 2))
    candidate["boxes"][0, 1, 2] = np.nan
    found = compare_outputs(Task.DETECTION, network_rows((A, 0.9, 1), (B, 0.8, 2)), candidate)
    assert (found.non_finite, found.figures["missing"]) == (1, 1)


@pytest.mark.parametrize("task", list(Task))
def test_images_add_up_in_any_order_and_through_json(task):
    reference, candidate = _outputs(task, 6, seed=1), _outputs(task, 6, seed=2)
    whole = compare_outputs(task, reference, candidate)
    parts = [
        compare_outputs(
            task,
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
    assert Agreement.from_json(json.loads(json.dumps(total.as_json()))) == total


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
        return module.answers({**outputs, **extra}, names)

    found = compare_answers(task, answered(reference), answered(candidate))
    expected = compare_outputs(task, reference, candidate).figures
    for figure in expected.keys() - {"mask_iou"}:
        assert found.figures[figure] == pytest.approx(expected[figure], abs=1e-6)
    same = compare_answers(task, answered(reference), answered(reference))
    assert same.figures.get("mask_iou", 1) == 1
    if task is not Task.SEGMENTATION:
        assert same.counts["labels"] == 0
        shifted = answered(reference, labels[1:] + labels[:1])
        assert compare_answers(task, answered(reference), shifted).counts["labels"] > 0


def test_what_cannot_be_compared_is_refused():
    logits = np.zeros((1, 3), np.float32)
    with pytest.raises(ValueError, match=r"logits is \(1, 4\), the reference's \(1, 3\)"):
        compare_outputs(
            Task.CLASSIFICATION, {"logits": logits}, {"logits": np.zeros((1, 4), np.float32)}
        )
    with pytest.raises(ValueError, match="has no output 'logits'"):
        compare_outputs(Task.CLASSIFICATION, {"logits": logits}, {})
    with pytest.raises(ValueError, match="do not add up"):
        Agreement(task=Task.DETECTION, images=1) + Agreement(task=Task.SEGMENTATION, images=1)
