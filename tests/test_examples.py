"""The two models that learn something: good enough, and good to find faults with; quickstart's."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dfvt_deploy.cli import app
from dfvt_deploy.errors import StageFailed
from dfvt_deploy.evaluate.datasets import open_dataset
from dfvt_deploy.evaluate.judge import decide
from dfvt_deploy.evaluate.metrics import metric_of
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.start import digits as digits_example
from dfvt_deploy.start import quickstart as quickstart_module
from dfvt_deploy.start.training import Schedule
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


@pytest.fixture
def cached_digits(digits, tmp_path, monkeypatch):
    """The trained digits where quickstart keeps them; training them again fails."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "digits").symlink_to(digits.checkpoint.parent)
    monkeypatch.setenv("DFVT_DEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digits_example, "_train", None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_quickstart_ends_in_right_labels_of_held_out_digits(cached_digits, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, ["quickstart", "--example", "digits"])
    assert done.exit_code == 0, done.output
    rows = re.findall(r"(\d)/(\d+)\.png\W+(\d)\W+(\d)\W+([01]\.\d{4})\W", done.stdout)
    assert [truth for _, _, truth, _, _ in rows] == list(digits_example.CLASSES)
    assert [folder for folder, *_ in rows] == list(digits_example.CLASSES)
    assert all(int(number) % 4 == 3 for _, number, *_ in rows), "held out of the training"
    right = sum(truth == answer for _, _, truth, answer, _ in rows)
    assert right >= 9
    assert f"; {right} of 10 held-out images are right, over HTTP as over gRPC;" in done.stdout
    assert "untrained" not in done.output
    assert done.stdout.endswith("picture: quickstart.png\nnext: dfvt-deploy serve\n")
    with Image.open(cached_digits / "quickstart.png") as picture:
        assert picture.format == "PNG"
    manifest = json.loads((cached_digits / "exports" / "digits" / "manifest.json").read_text())
    assert manifest["labels"] == list(digits_example.CLASSES)


def test_quickstart_fails_where_most_held_out_labels_are_wrong(
    cached_digits, digits, digits_artifact, monkeypatch
):
    """Each digit lies in the folder of the next, as it would for labels that are shifted by one."""
    shifted = cached_digits / "shifted"
    for folder in sorted(digits.heldout.iterdir())[:3]:
        image = min(folder.iterdir())
        (shifted / str((int(folder.name) + 1) % 10)).mkdir(parents=True)
        shutil.copy(image, shifted / str((int(folder.name) + 1) % 10))
    files = digits_example.DigitFiles(digits.checkpoint, digits.labels, shifted)
    monkeypatch.setattr(quickstart_module, "digit_files", lambda _: files)
    monkeypatch.setattr(quickstart_module, "export", lambda _: digits_artifact)
    with pytest.raises(StageFailed, match=r"^0 of 3 held-out images are right"):
        quickstart_module.quickstart(example="digits")
    assert not (cached_digits / "quickstart.png").exists()


def test_digits_are_trained_once_and_again_after_an_interruption(tmp_path, monkeypatch):
    few = [part[:40] for part in digits_example.digit_images()]
    monkeypatch.setattr(digits_example, "digit_images", lambda _: few)
    monkeypatch.setattr(digits_example, "SCHEDULE", Schedule(2, 2, 1e-3))
    staged = digits_example.staged

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits_example, "staged", interrupted)
    with pytest.raises(KeyboardInterrupt):
        digits_example.digit_files(tmp_path / "cache" / "digits")
    monkeypatch.setattr(digits_example, "staged", staged)
    files = digits_example.digit_files(tmp_path / "cache" / "digits")
    assert files.checkpoint.is_file() and files.labels.read_text().split() == [*"0123456789"]
    assert len(list(files.heldout.glob("*/*.png"))) == 10
    monkeypatch.setattr(digits_example, "_train", None)
    assert digits_example.digit_files(tmp_path / "cache" / "digits") == files
