"""ADE20K's layout: images, and class maps as PNG files in which 0 is nobody's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...artifact import Manifest
from ...errors import BadInput
from ...types import Task
from .checks import image_problem, images_below, published_order_problem, refuse
from .sample import ClassMapTruth, Dataset, Sample, spread

_SPLITS = ("validation", "val")

#: What a pixel that does not count is in a class map of `read_class_map`.
IGNORED = -1


def open_ade20k(data: Path, manifest: Manifest, limit: int | None) -> Dataset:
    """`data/images[/validation]` with `data/annotations[/validation]`, a PNG of one channel each.

    Raises:
        BadInput: with everything that is wrong.
    """
    images, annotations = _folders(data)
    files = images_below(images)
    if not files:
        raise BadInput(f"{images} holds no image")
    problems = []
    if problem := published_order_problem(Task.SEGMENTATION, manifest.labels):
        problems.append(problem)
    samples = []
    for i in spread(len(files), limit):
        name = files[i].relative_to(images)
        truth = ClassMapTruth(annotations / name.with_suffix(".png"), manifest.num_classes)
        samples.append(Sample(name.as_posix(), files[i], truth))
    empty = 0
    for sample in samples:
        found, labelled = _check(sample)
        problems += found
        empty += not labelled and not found
    if empty == len(samples):
        problems.append("no pixel of any annotation has a class; class ids begin at 1 in ADE20K")
    refuse(data, problems)
    notes = (f"{empty} of {len(samples)} images have no pixel with a class",) if empty else ()
    return Dataset(
        "ade20k", Task.SEGMENTATION, data.resolve().name, tuple(samples), len(files), notes
    )


def read_class_map(truth: ClassMapTruth) -> NDArray[np.int64]:
    """The annotated class ids (H, W) int64, `IGNORED` where a pixel does not count.

    In the file 0 is not annotated and class ids begin at 1; 255 (65535 if there are as many
    classes as that) does not count either.

    Raises:
        BadInput: not readable, of colours, or with a class that the model does not have.
    """
    raw = _read(truth.path)
    void = 255 if truth.num_classes < 255 else 65_535
    class_map = raw.astype(np.int64) - 1
    class_map[raw == void] = IGNORED
    highest = int(class_map.max()) + 1
    if highest > truth.num_classes:
        raise BadInput(
            f"{truth.path} has class {highest}, the model knows 1..{truth.num_classes} (0 is not "
            "annotated)"
        )
    return class_map


def _read(path: Path) -> NDArray[Any]:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("L", "P", "I;16", "I"):
                raise BadInput(
                    f"{path} is a PNG of mode {image.mode}; class ids need one channel (8 or 16 "
                    "bits), not colours"
                )
            return np.array(image)
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as PNG: {error}") from error


def _check(sample: Sample) -> tuple[list[str], bool]:
    """Problems of an image and its annotation, and whether any pixel has a class."""
    assert isinstance(sample.truth, ClassMapTruth)
    try:
        class_map = read_class_map(sample.truth)
    except BadInput as error:
        problem = image_problem(sample.path)
        return [str(error), *([problem] if problem else [])], False
    height, width = class_map.shape
    problem = image_problem(sample.path, (height, width))
    return [problem] if problem else [], bool((class_map != IGNORED).any())


def _folders(data: Path) -> tuple[Path, Path]:
    images, annotations = data / "images", data / "annotations"
    for folder in (images, annotations):
        if not folder.is_dir():
            raise BadInput(
                f"{folder} is not a folder; ADE20K has images/validation and "
                "annotations/validation, or images and annotations"
            )
    for split in _SPLITS:
        if (images / split).is_dir():
            return images / split, annotations / split
    return images, annotations
