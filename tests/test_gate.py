"""The gate: paired bootstrap over images, decided from stored results."""

import numpy as np
import pytest

from dfvt_deploy.evaluate.judge import decide
from dfvt_deploy.evaluate.metrics import metric_of
from dfvt_deploy.types import Task

ACCURACY, AP, IOU = (metric_of(task) for task in Task)


def accuracy_results(right):
    return [
        {"id": str(i), "truth": 0, "answer": 0, "rank": 0 if hit else None}
        for i, hit in enumerate(right)
    ]


def models(images, lost, gained, share=0.8):
    """Results of two models: the second loses and gains some of the first's right answers."""
    right = np.arange(images) < share * images
    other = right.copy()
    other[:lost] = False
    other[images - gained :] = True
    return accuracy_results(right), accuracy_results(other)


def test_equal_results_pass_at_any_limit():
    first, _ = models(50, 0, 0)
    decision = decide(ACCURACY, first, list(first), 0)
    assert (decision.verdict, decision.drop, decision.upper_bound) == ("passed", 0, 0)
    assert (decision.images, decision.images_needed) == (50, None)


def test_a_clear_loss_fails_and_a_clear_gain_passes():
    first, second = models(1000, 60, 0)
    decision = decide(ACCURACY, first, second, 1)
    assert (decision.verdict, decision.drop, decision.images_needed) == ("failed", 6, None)
    gain = decide(ACCURACY, second, first, 0)
    assert (gain.verdict, gain.drop) == ("passed", -6)
    assert gain.upper_bound < 0


def test_what_the_images_cannot_tell_is_inconclusive():
    first, second = models(200, 5, 3)
    decision = decide(ACCURACY, first, second, 2)
    assert decision.verdict == "inconclusive"
    assert decision.drop == 1
    assert decision.upper_bound > 2
    # So many images, alike in kind, decide; half of them do not.
    enough = round(decision.images_needed / 200) + 1
    more = [r for part in (first, second) for r in [repeated(part, enough)]]
    assert decide(ACCURACY, *more, 2).verdict == "passed"
    fewer = [repeated(part, max(1, enough // 2)) for part in (first, second)]
    assert decide(ACCURACY, *fewer, 2).verdict == "inconclusive"


def repeated(results, times):
    return [{**r, "id": f"{copy}/{r['id']}"} for copy in range(times) for r in results]


def test_the_bound_is_that_of_the_paired_difference():
    """The bound of a mean of differences is known: the paired one, not that of two samples."""
    first, second = models(2000, 50, 30)
    decision = decide(ACCURACY, first, second, 5)
    differences = np.zeros(2000)
    differences[:50], differences[:30] = 100, 100
    differences[-30:] = -100
    error = differences.std() / np.sqrt(2000)
    assert decision.drop == 1
    assert decision.upper_bound == pytest.approx(1 + 1.645 * error, rel=0.06)


def test_every_run_gives_the_same_bound():
    first, second = models(100, 10, 5)
    one, same = (decide(ACCURACY, first, second, 3) for _ in range(2))
    assert one == same
    assert (ACCURACY.resamples, AP.resamples, IOU.resamples) == (1000, 200, 1000)


def test_a_model_that_does_not_look_reaches_the_chance_level():
    rng = np.random.default_rng(0)
    classes = 5
    guesses = rng.integers(0, classes, (2, 4000))
    accuracy = ACCURACY.score(accuracy_results(guesses[0] == guesses[1]))["top1"]
    assert accuracy == pytest.approx(ACCURACY.chance(classes), abs=2)
    pixels = 1000
    one_class = [
        {
            "id": "0",
            "classes": list(range(classes)),
            "intersection": [pixels, 0, 0, 0, 0],
            "answered": [classes * pixels, 0, 0, 0, 0],
            "annotated": [pixels] * classes,
        }
    ]
    assert 0 < IOU.score(one_class)["miou"] <= IOU.chance(classes) == 20
    assert AP.chance(80) == 0


def test_a_drop_of_exactly_the_limit_needs_a_bound_not_above_it():
    first, second = models(100, 2, 0)
    decision = decide(ACCURACY, first, second, 2)
    assert (decision.verdict, decision.drop, decision.images_needed) == ("inconclusive", 2, None)


def test_one_image():
    right, wrong = accuracy_results([True]), accuracy_results([False])
    assert decide(ACCURACY, right, right, 0).verdict == "passed"
    lost = decide(ACCURACY, right, wrong, 1)
    assert (lost.verdict, lost.drop, lost.upper_bound) == ("failed", 100, 100)


def test_rounding_of_shares_is_no_drop():
    """3 of 300 images are 1 point, though the difference of the two shares is a little more."""
    first, second = (accuracy_results(np.arange(300) < right) for right in (97, 94))
    assert 100 * 97 / 300 - 100 * 94 / 300 > 1
    assert decide(ACCURACY, first, second, 1).drop == 1


def iou_results(shares):
    return [
        {
            "id": str(i),
            "classes": [0, 1],
            "intersection": [int(share), 50],
            "answered": [int(share), 150 - int(share)],
            "annotated": [100, 50],
        }
        for i, share in enumerate(shares)
    ]


def test_miou_is_resampled_by_image():
    rng = np.random.default_rng(0)
    shares = rng.integers(60, 95, 80)
    first, worse = iou_results(shares), iou_results(shares - 10)
    decision = decide(IOU, first, worse, 1)
    assert decision.verdict == "failed"
    assert decision.drop == pytest.approx(IOU.score(first)["miou"] - IOU.score(worse)["miou"])
    assert decide(IOU, first, worse, decision.upper_bound).verdict == "passed"


def ap_results(right, images=12):
    """One object an image, found above a wrong detection where `right`."""
    everywhere, nowhere = 1023, 0
    return [
        {
            "id": str(i),
            "classes": [
                {
                    "class": i % 3,
                    "objects": 1,
                    "scores": [0.9, 0.8],
                    "box": [everywhere, nowhere] if i < right else [nowhere, everywhere],
                    "box_ignored": [0, 0],
                    "mask": [nowhere, nowhere],
                    "mask_ignored": [0, 0],
                }
            ],
        }
        for i in range(images)
    ]


def test_ap_is_resampled_by_image():
    decision = decide(AP, ap_results(12), ap_results(9), 1)
    assert decision.verdict == "failed"
    assert decision.upper_bound > decision.drop > 5
