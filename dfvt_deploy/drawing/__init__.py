"""Answers for people: drawn on their image, and as the rows of a table.

Enter through `drawing_of(task)`, which gives the entry in the file of that task. The report of
`validate`, `predict --save` and the printed tables use it. `canvas.py` has what all tasks share.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from ..types import Task

#: The least score of a detection that is drawn, unless another is chosen.
DRAWN_SCORE = 0.3

#: The outputs of a served model for one image, without their batch dimension. Text is `str`, or
#: UTF-8 bytes as a server sends it.
Answers = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class TaskDrawing:
    """How the answers of one task are shown.

    draw: makes a new RGB image, the given one with its answers in it and a panel below it, from the
        image, its answers, the least score of a detection that is drawn and the longest `side` of
        the image in the drawing, in pixels; for None small images are enlarged. It raises
        ValueError where the answers are not those of an image of this size.
    columns: titles of the columns of the table.
    rows: the answers as rows of text under those titles, best first.
    """

    draw: Callable[..., Image.Image]
    columns: tuple[str, ...]
    rows: Callable[[Answers], list[list[str]]]


def drawing_of(task: Task) -> TaskDrawing:
    """The entry of a task."""
    return task.entry("drawing", "DRAWING")


def text(values: Iterable[str | bytes]) -> list[str]:
    """Strings of a served output as `str`; bytes that are not UTF-8 are replaced."""
    return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values]
