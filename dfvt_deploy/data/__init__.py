"""What is shipped with the package: class names, published figures, sample images."""

import csv
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput
from ..text_files import read_lines
from ..types import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIRECTORY = Path(__file__).parent
SAMPLES = DIRECTORY / "samples"


@cache
def published_classes(task: Task) -> tuple[dict[str, str], ...]:
    """The rows of `<task>.tsv`, one for each class of the task's published models, by class id;
    none for a task without such a file. Every row has a `name`; ImageNet's also have a `wnid`,
    COCO's a `coco_id`, ADE20K's the colour `r`, `g`, `b`."""
    path = DIRECTORY / f"{task}.tsv"
    if not path.is_file():
        return ()
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file, delimiter="\t"))


@cache
def class_names(task: Task) -> tuple[str, ...]:
    """The names of the classes of a task's published models, by class id."""
    return tuple(row["name"] for row in published_classes(task))


def palette(task: Task, num_classes: int) -> "NDArray[np.uint8]":
    """A colour for each class, uint8 RGB (num_classes, 3): those published for this number of
    classes, else hues in steps of the golden ratio, which keeps neighbouring class ids apart."""
    import colorsys

    import numpy as np

    rows = published_classes(task)
    if len(rows) == num_classes and "r" in rows[0]:
        return np.array([[int(row[c]) for c in "rgb"] for row in rows], np.uint8)
    hues = [i * 0.618034 % 1 for i in range(num_classes)]
    colours = [colorsys.hsv_to_rgb(hue, 0.7, 0.95) for hue in hues]
    return (255 * np.array(colours)).astype(np.uint8)


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Class names from a UTF-8 text file: one name a line, in the order of the class ids.

    Raises BadInput where the file cannot be read, is empty, has an empty line between names or a
    control character, or gives two classes the same name.
    """
    path = Path(path)
    names = [line.strip() for line in read_lines(path, "labels")]
    while names and not names[-1]:
        names.pop()
    if not names or not all(names):
        line = names.index("") + 1 if names else 1
        raise BadInput(f"labels {path}: line {line} is empty; give one class name a line")
    lines: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if lines.setdefault(name, line) != line:
            raise BadInput(
                f"labels {path}: lines {lines[name]} and {line} are both {name!r}; answers could "
                "not be told apart, so give each class its own name"
            )
    return tuple(names)


def labels_for(task: Task, num_classes: int, path: str | Path | None = None) -> tuple[str, ...]:
    """Names for a model's classes: from the file `path`, else the published ones, else
    `class_<id>`. Raises BadInput where the file does not name as many as the model has."""
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
