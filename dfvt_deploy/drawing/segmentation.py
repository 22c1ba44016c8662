"""A class map over its image, with a legend of the classes below it."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data import palette
from ..tasks.segmentation import decode_class_map
from ..types import Task
from . import Answers, TaskDrawing, text
from .canvas import Colour, distinct_colours, percent, scaled, text_size, with_legend

#: Share of the class's colour in a drawn pixel; the image has the rest.
OPACITY = 0.5

#: Least share of the pixels of a class that the legend names, and most classes that it names.
_NAMED_SHARE, _MOST_NAMED = 0.005, 12


def draw(
    image: Image.Image, answers: Answers, _min_score: float = 0.0, side: int | None = None
) -> Image.Image:
    """The image under its class map with a line around each region, above a legend."""
    class_map, labels = decode_class_map(answers["class_map"].item()), text(answers["labels"])
    if class_map.shape != (image.height, image.width):
        raise ValueError(
            f"class map of {class_map.shape} is not of the image's {(image.height, image.width)}"
        )
    shares = class_shares(class_map)
    present = [class_id for class_id, _ in shares]
    if max(present) >= len(labels):
        raise ValueError(f"class id {max(present)} has no name; there are {len(labels)} names")
    colours = palette(Task.SEGMENTATION, len(labels))
    colours[present] = distinct_colours(colours[present])
    drawn = scaled(image, side)
    enlarged = cv2.resize(class_map, drawn.size, interpolation=cv2.INTER_NEAREST_EXACT)
    pixels = np.array(Image.blend(drawn, Image.fromarray(colours[enlarged]), OPACITY))
    pixels[_borders(enlarged, max(1, text_size(drawn) // 12))] = 255
    return with_legend(Image.fromarray(pixels), _entries(shares, labels, colours))


def _borders(class_map: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Pixels on either side of where two regions meet."""
    changes = np.zeros(class_map.shape, np.uint8)
    changes[1:] |= class_map[1:] != class_map[:-1]
    changes[:, 1:] |= class_map[:, 1:] != class_map[:, :-1]
    return cv2.dilate(changes, np.ones((width, width), np.uint8)) > 0


def _entries(
    shares: list[tuple[int, float]], labels: list[str], colours: NDArray[np.uint8]
) -> list[tuple[str, Colour | None]]:
    """The legend's texts and colours, largest class first, those it does not name as one."""
    named = [item for item in shares[:_MOST_NAMED] if item[1] >= _NAMED_SHARE] or shares[:1]
    others = shares[len(named) :]
    if len(others) == 1:  # takes as much room as its name
        named, others = shares, []
    entries: list[tuple[str, Colour | None]] = [
        (f"{labels[i]} {percent(share)}", tuple(colours[i].tolist())) for i, share in named
    ]
    if others:
        total = percent(sum(share for _, share in others))
        entries.append((f"{len(others)} others {total}", None))
    return entries


def rows(answers: Answers) -> list[list[str]]:
    """Class id, label and share of the pixels of each class that is there, largest first."""
    labels = text(answers["labels"])
    shares = class_shares(decode_class_map(answers["class_map"].item()))
    return [[str(i), labels[i], f"{share:.2%}"] for i, share in shares]


def class_shares(class_map: NDArray[Any]) -> list[tuple[int, float]]:
    """Class ids in a class map and their share of its pixels, largest first."""
    counts = np.bincount(class_map.ravel())
    order = np.argsort(-counts, kind="stable")
    return [(int(i), float(counts[i] / class_map.size)) for i in order if counts[i]]


DRAWING = TaskDrawing(draw, ("class", "label", "pixels"), rows)
