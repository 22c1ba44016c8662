"""What is shipped with the package: class names, published figures, sample images."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..types import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIRECTORY = Path(__file__).parent
SAMPLES = DIRECTORY / "samples"

_CLASS_FILES = {
    Task.CLASSIFICATION: "imagenet.tsv",
    Task.DETECTION: "coco.tsv",
    Task.SEGMENTATION: "ade20k.tsv",
}


@cache
def class_names(task: Task) -> tuple[str, ...]:
    """Names of the classes a task's published models know, by class id."""
    with (DIRECTORY / _CLASS_FILES[task]).open(encoding="utf-8", newline="") as file:
        return tuple(row["name"] for row in csv.DictReader(file, delimiter="\t"))


def palette(task: Task, num_classes: int) -> NDArray[np.uint8]:
    """A colour for each class, uint8 RGB (num_classes, 3): ADE20K's own for its classes, else
    hues in steps of the golden ratio, which keeps neighbours apart."""
    import colorsys

    import numpy as np

    with (DIRECTORY / _CLASS_FILES[task]).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if len(rows) == num_classes and "r" in rows[0]:
        return np.array([[int(row[c]) for c in "rgb"] for row in rows], np.uint8)
    hues = [i * 0.618034 % 1 for i in range(num_classes)]
    colours = [colorsys.hsv_to_rgb(hue, 0.7, 0.95) for hue in hues]
    return (255 * np.array(colours)).astype(np.uint8)


@cache
def published_figures() -> dict[str, Any]:
    """The tables of the paper (main text and supplement), see `paper.json`."""
    figures: dict[str, Any] = json.loads((DIRECTORY / "paper.json").read_text(encoding="utf-8"))
    return figures


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Class names from a UTF-8 text file, one a line, by class id.

    Raises:
        BadInput: not readable, empty, or with an empty line between names.
    """
    path = Path(path)
    try:
        names = path.read_text(encoding="utf-8-sig").rstrip("\r\n").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"labels {path} cannot be read as UTF-8 text: {error}") from error
    names = [name.strip() for name in names]
    if not all(names):
        line = names.index("") + 1 if names else 1
        raise BadInput(f"labels {path}: line {line} is empty; give one class name a line")
    return tuple(names)


def labels_for(task: Task, num_classes: int, path: str | Path | None = None) -> tuple[str, ...]:
    """Names for a model's classes: from `path`, else the published ones, else `class_<id>`.

    Raises:
        BadInput: the file holds another number of names than the model has classes.
    """
    if path is not None:
        names = read_labels(path)
        if len(names) != num_classes:
            raise BadInput(
                f"labels {path} names {len(names)} classes, the model has {num_classes}; "
                "give one line a class, in the order of the class ids"
            )
        return names
    names = class_names(task)
    if len(names) == num_classes:
        return names
    return tuple(f"class_{i}" for i in range(num_classes))
