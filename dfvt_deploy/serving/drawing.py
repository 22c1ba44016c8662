"""Predictions drawn on their images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..data import class_names, palette
from ..errors import BadInput
from ..files import staged
from ..progress import note
from ..tasks import classification, detection, segmentation
from ..tasks.images import MOST_PIXELS, ImageLimits, decode_image
from ..types import Task
from .client import Prediction, read_image

#: The server that answered has its own limits.
ANY_SIZE = ImageLimits(max_bytes=2**31, max_pixels=MOST_PIXELS)


def draw(prediction: Prediction, labels: Sequence[str] | None = None) -> Image.Image:
    """The image with its answers in it, as each task draws them.

    Args:
        labels: class names where the answers hold none (segmentation); the published by default.
    """
    image = decode_image(read_image(prediction.image), ANY_SIZE)
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
    """Names for the classes of a class map: the given ones, else those of ADE20K, and a note.

    The server does not tell of how many classes the model is.

    Raises:
        BadInput: there are more classes than names.
    """
    names = labels or class_names(Task.SEGMENTATION)
    highest = int(prediction.class_map.max())
    if highest >= len(names):
        raise BadInput(
            f"class id {highest} has no name, there are {len(names)}; give --labels the model's"
        )
    if labels is None:
        note("class names are ADE20K's; for a model of other classes give --labels")
    return names


def save(image: Image.Image, source: str, directory: Path, taken: set[Path]) -> Path:
    """Save as `<directory>/<name of source>.png`, numbered where that is in `taken`.

    Args:
        taken: resolved paths that must stay: the images themselves, and what was saved before;
            the saved path is added.

    Raises:
        BadInput: the directory is a file.
    """
    if directory.exists() and not directory.is_dir():
        raise BadInput(f"--save {directory} is not a folder")
    stem = Path(source).stem
    path, number = directory / f"{stem}.png", 1
    while path.resolve() in taken:
        number += 1
        path = directory / f"{stem}-{number}.png"
    with staged(path) as temporary:
        image.save(temporary, "PNG")
    taken.add(path.resolve())
    return path
