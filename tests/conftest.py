"""One export, one repository and one server for all tests that need them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dfvt_deploy.artifact import Artifact
from dfvt_deploy.conversion.convert import convert
from dfvt_deploy.conversion.export import export
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import TritonServer, serve
from examples.train_digits import TrainedDigits, train_digits
from examples.train_shapes import CANVAS, TrainedShapes, train_shapes

from .fixtures import copy_of, dense_state_dict, fixture_state_dict, save_published


@pytest.fixture(scope="session")
def checkpoint_t(tmp_path_factory) -> Path:
    """DFvT-T fixture weights in the published layout."""
    path = tmp_path_factory.mktemp("checkpoints") / "DFvT_T.pth"
    return save_published(path, fixture_state_dict("t"))


@pytest.fixture(scope="session")
def artifact_t(checkpoint_t, tmp_path_factory) -> Artifact:
    """DFvT-T exported from it, uint8 input."""
    return export("t", checkpoint=checkpoint_t, output=tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="session")
def fp16_t(artifact_t, tmp_path_factory) -> Artifact:
    """`artifact_t` with its FP16 file beside it."""
    copy = copy_of(artifact_t, tmp_path_factory.mktemp("fp16"))
    return convert(copy, "fp16", images=4).artifact


@pytest.fixture(scope="session")
def int8_t(artifact_t, tmp_path_factory) -> Artifact:
    """`artifact_t` with its INT8 file for the CPU beside it."""
    copy = copy_of(artifact_t, tmp_path_factory.mktemp("int8"))
    return convert(copy, "int8", images=15).artifact


@pytest.fixture(scope="session")
def repository(artifact_t, tmp_path_factory) -> Path:
    """A model repository with DFvT-T."""
    directory = tmp_path_factory.mktemp("served") / "model_repository"
    populate(artifact_t.directory, repository=directory)
    return directory


@pytest.fixture(scope="session")
def segmentation_checkpoint_t(tmp_path_factory) -> Path:
    """DFvT-T UPerNet fixture weights in mmsegmentation's layout, auxiliary head included."""
    path = tmp_path_factory.mktemp("checkpoints") / "upernet_t.pth"
    torch.save({"meta": {"epoch": 160}, "state_dict": dense_state_dict("seg_t")}, path)
    return path


@pytest.fixture(scope="session")
def segmentation_artifact_t(segmentation_checkpoint_t, tmp_path_factory) -> Artifact:
    """DFvT-T UPerNet exported from it, any size, with logits."""
    return export(
        "t",
        "segmentation",
        checkpoint=segmentation_checkpoint_t,
        output=tmp_path_factory.mktemp("exports"),
        logits=True,
    )


@pytest.fixture(scope="session")
def detection_checkpoint_t(tmp_path_factory) -> Path:
    """DFvT-T Mask R-CNN fixture weights in mmdetection's layout."""
    path = tmp_path_factory.mktemp("checkpoints") / "mask_rcnn_t.pth"
    torch.save({"meta": {"epoch": 36}, "state_dict": dense_state_dict("det_t")}, path)
    return path


@pytest.fixture(scope="session")
def detection_artifact_t(detection_checkpoint_t, tmp_path_factory) -> Artifact:
    """DFvT-T Mask R-CNN exported from it, any size."""
    return export(
        "t",
        "detection",
        checkpoint=detection_checkpoint_t,
        output=tmp_path_factory.mktemp("exports"),
    )


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> TrainedDigits:
    """DFvT-T that has learnt handwritten digits, and those that were held out."""
    return train_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def digits_artifact(digits, tmp_path_factory) -> Artifact:
    """That model exported, uint8 input."""
    return export(
        "t",
        checkpoint=digits.checkpoint,
        labels=digits.labels,
        name="digits",
        output=tmp_path_factory.mktemp("exports"),
    )


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> TrainedShapes:
    """DFvT-T UPerNet that has learnt five shapes, and images that were held out."""
    return train_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def shapes_artifact(shapes, tmp_path_factory) -> Artifact:
    """That model exported at the canvas it was trained at, 64x64, uint8 input."""
    return export(
        "t",
        "segmentation",
        checkpoint=shapes.checkpoint,
        labels=shapes.labels,
        name="shapes",
        static=CANVAS,
        output=tmp_path_factory.mktemp("exports"),
    )


@pytest.fixture(scope="session")
def server(repository) -> Iterator[TritonServer]:
    with serve(repository) as running:
        yield running
