"""Predictions drawn on their images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data import class_names, palette
from ..errors import BadInput
from ..tasks import classification, detection, segmentation
from ..tasks.images import decode_image
from ..types import Task
from .client import Prediction, read_image


def draw(prediction: Prediction, labels: Sequence[str] | None = None) -> Image.Image:
    """The image with its answers in it, as each task draws them.

    Args:
        labels: class names where the answers hold none (segmentation); the published by default.
    """
    image = decode_image(read_image(prediction.image))
    outputs = prediction.outputs
    if prediction.task is Task.SEGMENTATION:
        names = segmentation_labels(prediction, labels)
        colours = palette(Task.SEGMENTATION, len(names))
        return segmentation.draw(image, prediction.class_map, colours, names)
    if prediction.task is Task.DETECTION:
        found = prediction.detections
        return detection.draw(image, found, outputs["labels"].tolist())
    return classification.draw(image, outputs["labels"].tolist(), outputs["scores"].tolist())


def segmentation_labels(prediction: Prediction, labels: Sequence[str] | None) -> Sequence[str]:
    """Names for the classes of a class map: the given ones, else those of ADE20K.

    Raises:
        BadInput: there are more classes than names.
    """
    names = labels or class_names(Task.SEGMENTATION)
    highest = int(prediction.class_map.max())
    if highest >= len(names):
        raise BadInput(
            f"class id {highest} has no name, there are {len(names)}; give --labels the model's"
        )
    return names


def save(image: Image.Image, source: str, directory: Path, taken: set[Path]) -> Path:
    """Save as `<directory>/<name of source>.png`, numbered where this run took the name already."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = Path(source).stem
    path, number = directory / f"{stem}.png", 1
    while path in taken:
        number += 1
        path = directory / f"{stem}-{number}.png"
    image.save(path)
    taken.add(path)
    return path
