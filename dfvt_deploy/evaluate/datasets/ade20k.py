"""ADE20K's layout: images, and annotations as PNG files of class numbers from 1."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import BadInput
from ...image_files import find_images, spread
from ...manifest import Manifest
from ...tasks.images import DEFAULT_LIMITS
from ...types import Task
from .sample import (
    ClassMapTruth,
    Dataset,
    Sample,
    image_problem,
    pixels_problem,
    published_order_problems,
    refuse,
)

_SPLITS = ("validation", "val")

#: The class id that `read_class_map` gives to pixels which do not count.
IGNORED = -1

#: Position of the bit depth and the colour type in a PNG file, and the colour type of grey levels.
_BIT_DEPTH, _COLOUR_TYPE, _GREY = 24, 25, 0


def open_ade20k(data: Path, manifest: Manifest, limit: int | None) -> Dataset:
    """Images of `data/images` and annotations of `data/annotations`, both perhaps in a subfolder
    `validation` or `val`. The annotation of an image has its name and the ending `.png`."""
    images, annotations = _folders(data)
    files = find_images(images)
    if not files:
        raise BadInput(f"{images} holds no image")
    problems = published_order_problems(Task.SEGMENTATION, manifest.labels)
    samples, empty = [], 0
    for file in spread(files, limit):
        name = file.relative_to(images)
        truth = ClassMapTruth(annotations / name.with_suffix(".png"), manifest.num_classes)
        samples.append(Sample(name.as_posix(), file, truth))
        found, labelled = _check(file, truth)
        problems += found
        empty += not labelled and not found
    if empty == len(samples):
        problems.append("no pixel of any annotation has a class; class numbers begin at 1")
    refuse(data, problems)
    notes = (f"{empty} of {len(samples)} images have no pixel with a class",) if empty else ()
    return Dataset(
        "ade20k", Task.SEGMENTATION, data.resolve().name, tuple(samples), len(files), notes
    )


def read_class_map(truth: ClassMapTruth) -> NDArray[np.int64]:
    """The annotated class ids of an image, int64 (H, W), `IGNORED` where a pixel does not count. In
    the file, a class is its class id plus 1; 0 means that a pixel is not annotated, and 255 (65535
    for 255 classes or more) that it does not count either. Raises BadInput where the file cannot be
    read, holds colours, or has a class that the model lacks."""
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
    """The values of a PNG file of one channel, uint8 or int32 or uint16 (H, W)."""
    try:
        with path.open("rb") as file:
            header = file.read(_COLOUR_TYPE + 1)
        if (length := path.stat().st_size) > DEFAULT_LIMITS.max_bytes:
            raise BadInput(
                f"{path} has {length:,} bytes, the limit is {DEFAULT_LIMITS.max_bytes:,}"
            )
        with Image.open(path, formats=("PNG",)) as image:
            if problem := pixels_problem(path, image):
                raise BadInput(problem)
            if image.mode not in ("L", "P", "I;16", "I"):
                raise BadInput(
                    f"{path} is a PNG of mode {image.mode}; class numbers need one channel (8 or "
                    "16 bits), not colours"
                )
            if header[_COLOUR_TYPE] == _GREY and header[_BIT_DEPTH] < 8:
                # Pillow stretches such grey levels to 0..255, which would change the classes.
                raise BadInput(
                    f"{path} has {header[_BIT_DEPTH]} bits a pixel; save class numbers with 8 or 16"
                )
            return np.array(image)
    except BadInput:
        raise
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise BadInput(f"{path} cannot be read as PNG: {error or type(error).__name__}") from error


def _check(path: Path, truth: ClassMapTruth) -> tuple[list[str], bool]:
    """The problems of an image and its annotation, and whether any pixel has a class."""
    try:
        class_map = read_class_map(truth)
    except BadInput as error:
        problem = image_problem(path)
        return [str(error), *([problem] if problem else [])], False
    height, width = class_map.shape
    problem = image_problem(path, (height, width))
    return [problem] if problem else [], bool((class_map != IGNORED).any())


def _folders(data: Path) -> tuple[Path, Path]:
    """The folders of the images and of the annotations."""
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
