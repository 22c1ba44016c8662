"""The two models that learn something: good enough, and good to find faults with."""

from __future__ import annotations

import numpy as np
import pytest

from dfvt_deploy.evaluate.datasets import open_dataset
from dfvt_deploy.evaluate.gate import decide
from dfvt_deploy.evaluate.metrics import metric_of
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.tasks import classification, segmentation
from dfvt_deploy.tasks.images import decode_image
from dfvt_deploy.types import Task
from examples.train_shapes import CANVAS

ACCURACY, IOU = metric_of(Task.CLASSIFICATION), metric_of(Task.SEGMENTATION)


@pytest.fixture(scope="module")
def digit_samples(digits, digits_artifact):
    return open_dataset("imagenet", digits.heldout, digits_artifact.manifest).samples


@pytest.fixture(scope="module")
def shape_samples(shapes, shapes_artifact):
    return open_dataset("ade20k", shapes.heldout, shapes_artifact.manifest).samples


def classified(artifact, samples, change=lambda images: images):
    """Results of model.onnx; `change` is done to the network's pixels."""
    labels, results = artifact.manifest.labels, []
    with OnnxRuntimeRunner(artifact.onnx_path()) as runner:
        for sample in samples:
            inputs = classification.preprocess_batch([decode_image(sample.path.read_bytes())])
            outputs = runner.infer({"images": change(inputs["images"])})
            results.append(
                ACCURACY.image_result(classification.postprocess_batch(outputs, labels), sample)
            )
    return results


def segmented(artifact, samples, change=lambda images: images):
    labels, results = artifact.manifest.labels, []
    with OnnxRuntimeRunner(artifact.onnx_path()) as runner:
        for sample in samples:
            inputs = segmentation.preprocess_batch([decode_image(sample.path.read_bytes())], CANVAS)
            original = {"original_sizes": inputs.pop("original_sizes")}
            outputs = runner.infer({**inputs, "images": change(inputs["images"])})
            answers = segmentation.postprocess_batch({**inputs, **original, **outputs}, labels)
            results.append(IOU.image_result(answers, sample))
    return results


def swapped(images):
    """Blue for red, as a preprocessing that takes BGR for RGB would have it."""
    return np.ascontiguousarray(images[..., ::-1])


@pytest.fixture(scope="module")
def digit_results(digits_artifact, digit_samples):
    return classified(digits_artifact, digit_samples)


@pytest.fixture(scope="module")
def shape_results(shapes_artifact, shape_samples):
    return segmented(shapes_artifact, shape_samples)


def test_digits_are_learnt(digits, digit_results):
    assert len(digit_results) == 449
    assert digits.accuracy >= 0.95
    figures = ACCURACY.score(digit_results)
    assert figures["top1"] == pytest.approx(100 * digits.accuracy, abs=0.3)
    assert figures["top5"] > figures["top1"]


def test_shapes_are_learnt(shapes, shape_results):
    assert len(shape_results) == 100
    assert shapes.miou >= 0.80
    assert IOU.score(shape_results)["miou"] == pytest.approx(100 * shapes.miou, abs=0.3)


def test_the_gate_passes_what_is_equal_and_fails_swapped_channels_on_digits(
    digits_artifact, digit_samples, digit_results
):
    assert decide(ACCURACY, digit_results, digit_results, 0).verdict == "passed"
    samples, results = digit_samples[::8], digit_results[::8]
    decision = decide(ACCURACY, results, classified(digits_artifact, samples, swapped), 1)
    assert decision.verdict == "failed"
    assert decision.drop > 30


def test_the_gate_fails_swapped_channels_on_shapes(shapes_artifact, shape_samples, shape_results):
    samples, results = shape_samples[::4], shape_results[::4]
    assert decide(IOU, results, results, 0).verdict == "passed"
    decision = decide(IOU, results, segmented(shapes_artifact, samples, swapped), 1)
    assert decision.verdict == "failed"
    assert decision.drop > 30
