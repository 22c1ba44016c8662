"""ADE20K's layout: images, and annotations as PNG files of class numbers from 1."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from ...image_files import find_images, spread
from ...manifest import Manifest
from ...types import Task
from .sample import (
    ClassMapTruth,
    Dataset,
    Sample,
    image_problem,
    opened_image,
    published_order_problems,
    refuse,
)

#: The class id that `read_class_map` gives to pixels which do not count.
IGNORED = -1


def open_ade20k(data: Path, manifest: Manifest, limit: int | None) -> Dataset:
    """Images of `data/images` and annotations of `data/annotations`, both perhaps in a subfolder
    `validation` or `val`. The annotation of an image has its name and the ending `.png`."""
    images, annotations = data / "images", data / "annotations"
    for folder in (images, annotations):
        if not folder.is_dir():
            raise BadInput(
                f"{folder} is not a folder; ADE20K has images/validation and "
                "annotations/validation, or images and annotations"
            )
    split = next((name for name in ("validation", "val") if (images / name).is_dir()), "")
    images, annotations = images / split, annotations / split
    files = find_images(images)
    if not files:
        raise BadInput(f"{images} holds no image")
    problems = published_order_problems(Task.SEGMENTATION, manifest.labels)
    samples, empty = [], 0
    for file in spread(files, limit):
        name = file.relative_to(images)
        truth = ClassMapTruth(annotations / name.with_suffix(".png"), manifest.num_classes)
        samples.append(Sample(name.as_posix(), file, truth))
        size = None
        try:
            class_map = read_class_map(truth)
            empty += bool((class_map == IGNORED).all())
            size = class_map.shape
        except BadInput as error:
            problems.append(str(error))
        if problem := image_problem(file, size):
            problems.append(problem)
    if empty == len(samples):
        problems.append("no pixel of any annotation has a class; class numbers begin at 1")
    refuse(data, problems)
    notes = (f"{empty} of {len(samples)} images have no pixel with a class",) if empty else ()
    return Dataset(data.resolve().name, tuple(samples), len(files), notes)


def read_class_map(truth: ClassMapTruth) -> NDArray[np.int64]:
    """The annotated class ids of an image, int64 (H, W), `IGNORED` where a pixel does not count. In
    the file, a class is its class id plus 1; 0 means that a pixel is not annotated, and 255 (65535
    for 255 classes or more) that it does not count either. Raises BadInput where the file cannot be
    read, holds colours, or has a class that the model lacks."""
    path = truth.path
    with opened_image(path, ("PNG",), "read as PNG") as image:
        if image.mode not in ("L", "P", "I;16", "I"):
            raise BadInput(
                f"{path} is a PNG of mode {image.mode}; class numbers need one channel (8 or "
                "16 bits), not colours"
            )
        if (stored := str(image.tile[0][3])) in ("L;2", "L;4"):
            # Pillow stretches such grey levels to 0..255, which would change the classes.
            bits = stored.removeprefix("L;")
            raise BadInput(f"{path} has {bits} bits a pixel; save class numbers with 8 or 16")
        raw = np.array(image)
    void = 255 if truth.num_classes < 255 else 65_535
    class_map = raw.astype(np.int64) - 1
    class_map[raw == void] = IGNORED
    highest = int(class_map.max()) + 1
    if highest > truth.num_classes:
        raise BadInput(
            f"{path} has class {highest}, the model knows 1..{truth.num_classes} (0 is not "
            "annotated)"
        )
    return class_map
