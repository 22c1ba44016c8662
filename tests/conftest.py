"""One export, one repository and one server for all tests that need them.

What takes long to make is made once for all workers of pytest-xdist: see `once`.
"""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from dfvt_deploy.artifact import Artifact
from dfvt_deploy.exporters.export import export
from dfvt_deploy.files import locked
from dfvt_deploy.precision.convert import convert
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import TritonServer, serve
from examples.train_detection import CANVAS as DETECTION_CANVAS
from examples.train_detection import SHORT, TrainedDetector, train_detection
from examples.train_digits import TrainedDigits, train_digits
from examples.train_shapes import CANVAS, TrainedShapes, train_shapes

from .fixtures import copy_of, dense_state_dict, fixture_state_dict, save_published

Made = TypeVar("Made")


class Once:
    """Makes things once for all workers of pytest-xdist; the others wait and get an equal object.

    Trained models depend on the examples alone. `DFVT_TRAINED_MODELS` names a folder that keeps
    them from one run of pytest to the next.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trained_root = Path(os.environ.get("DFVT_TRAINED_MODELS", root))

    def __call__(self, name: str, make: Callable[[Path], Made]) -> Made:
        return self._made(self.root / name, make)

    def trained(self, name: str, train: Callable[[Path], Made]) -> Made:
        return self._made(self.trained_root / name, train)

    def _made(self, folder: Path, make: Callable[[Path], Made]) -> Made:
        made = folder / "made"  # not the locked folder: what makes things may lock where it writes
        made.mkdir(parents=True, exist_ok=True)
        result = folder / "result.pickle"
        # Not the folder itself: what is made may take that lock.
        lock = folder.with_name(f"{folder.name}.lock")
        lock.mkdir(exist_ok=True)
        with locked(lock):
            if not result.is_file():
                result.write_bytes(pickle.dumps(make(made)))
            return pickle.loads(result.read_bytes())


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Once:
    base = tmp_path_factory.getbasetemp()
    return Once((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once")


def _saved_dense(path: Path, name: str, epoch: int) -> Path:
    torch.save({"meta": {"epoch": epoch}, "state_dict": dense_state_dict(name)}, path)
    return path


@pytest.fixture(scope="session")
def checkpoint_t(once) -> Path:
    """DFvT-T fixture weights in the published layout."""
    return once(
        "checkpoint_t",
        lambda at: save_published(at / "DFvT_T.pth", fixture_state_dict("t")),
    )


@pytest.fixture(scope="session")
def artifact_t(checkpoint_t, once) -> Artifact:
    """DFvT-T exported from it, uint8 input."""
    return once("artifact_t", lambda at: export("t", checkpoint=checkpoint_t, output=at))


@pytest.fixture(scope="session")
def fp16_t(artifact_t, once) -> Artifact:
    """`artifact_t` with its FP16 file beside it."""
    return once("fp16_t", lambda at: convert(copy_of(artifact_t, at), "fp16", images=4).artifact)


@pytest.fixture(scope="session")
def int8_t(artifact_t, once) -> Artifact:
    """`artifact_t` with its INT8 file for the CPU beside it."""
    return once("int8_t", lambda at: convert(copy_of(artifact_t, at), "int8", images=15).artifact)


@pytest.fixture(scope="session")
def repository(artifact_t, tmp_path_factory) -> Path:
    """A model repository with DFvT-T."""
    directory = tmp_path_factory.mktemp("served") / "model_repository"
    populate(artifact_t.directory, repository=directory)
    return directory


@pytest.fixture(scope="session")
def segmentation_checkpoint_t(once) -> Path:
    """DFvT-T UPerNet fixture weights in mmsegmentation's layout, auxiliary head included."""
    return once("upernet_t", lambda at: _saved_dense(at / "upernet_t.pth", "seg_t", 160))


@pytest.fixture(scope="session")
def segmentation_artifact_t(segmentation_checkpoint_t, once) -> Artifact:
    """DFvT-T UPerNet exported from it, any size, with logits."""
    return once(
        "segmentation_artifact_t",
        lambda at: export(
            "t", "segmentation", checkpoint=segmentation_checkpoint_t, output=at, logits=True
        ),
    )


@pytest.fixture(scope="session")
def detection_checkpoint_t(once) -> Path:
    """DFvT-T Mask R-CNN fixture weights in mmdetection's layout."""
    return once("mask_rcnn_t", lambda at: _saved_dense(at / "mask_rcnn_t.pth", "det_t", 36))


@pytest.fixture(scope="session")
def detection_artifact_t(detection_checkpoint_t, once) -> Artifact:
    """DFvT-T Mask R-CNN exported from it, any size."""
    return once(
        "detection_artifact_t",
        lambda at: export("t", "detection", checkpoint=detection_checkpoint_t, output=at),
    )


@pytest.fixture(scope="session")
def digits(once) -> TrainedDigits:
    """DFvT-T that has learnt handwritten digits, and those that were held out."""
    return once.trained("digits", train_digits)


@pytest.fixture(scope="session")
def digits_artifact(digits, once) -> Artifact:
    """That model exported, uint8 input."""
    return once(
        "digits_artifact",
        lambda at: export(
            "t", checkpoint=digits.checkpoint, labels=digits.labels, name="digits", output=at
        ),
    )


@pytest.fixture(scope="session")
def shapes(once) -> TrainedShapes:
    """DFvT-T UPerNet that has learnt five shapes, and images that were held out."""
    return once.trained("shapes", train_shapes)


@pytest.fixture(scope="session")
def shapes_artifact(shapes, once) -> Artifact:
    """That model exported at the canvas it was trained at, 64x64, uint8 input."""
    return once(
        "shapes_artifact",
        lambda at: export(
            "t",
            "segmentation",
            checkpoint=shapes.checkpoint,
            labels=shapes.labels,
            name="shapes",
            static=CANVAS,
            output=at,
        ),
    )


@pytest.fixture(scope="session")
def detector(once) -> TrainedDetector:
    """DFvT-T Mask R-CNN that has learnt the same shapes a little, and images that were held out."""
    return once.trained("detector", lambda at: train_detection(at, SHORT))


@pytest.fixture(scope="session")
def detector_artifact(detector, once) -> Artifact:
    """That model exported at the canvas it was trained at, 128x128, uint8 input."""
    return once(
        "detector_artifact",
        lambda at: export(
            "t",
            "detection",
            checkpoint=detector.checkpoint,
            labels=detector.labels,
            name="detector",
            static=DETECTION_CANVAS,
            output=at,
        ),
    )


@pytest.fixture(scope="session")
def server(repository) -> Iterator[TritonServer]:
    with serve(repository) as running:
        yield running
