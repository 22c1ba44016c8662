"""Boxes, masks, labels and scores of detections on their image."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..data import palette
from ..tasks import rle
from ..tasks.detection import result_from_answers
from ..types import Task
from . import DRAWN_SCORE, Answers, TaskDrawing, text
from .canvas import Colour, distinct_colours, scaled, text_on, text_size, with_legend

#: How far from its box a label may be, in heights of a label.
_FARTHEST = 6


def draw(
    image: Image.Image, answers: Answers, min_score: float = DRAWN_SCORE, side: int | None = None
) -> Image.Image:
    """The image with the detections that have at least `min_score`, the best on top, above a line
    that says how many these are. Labels without a free place on the image are below that line."""
    found, labels = result_from_answers(answers), text(answers["labels"])
    shown = [int(i) for i in np.flatnonzero(found.scores >= min_score)]
    drawn = scaled(image, side)
    colours = _colours(found.labels[shown])
    pixels = np.array(drawn)
    size = image.height, image.width
    for i in reversed(shown):
        inside = rle.decode(found.masks[i])
        if inside.shape != size:
            raise ValueError(f"mask of {inside.shape} is not of the image's {size}")
        inside = cv2.resize(inside.astype(np.uint8) * 255, drawn.size) > 127
        colour = np.array(colours[int(found.labels[i])], float)
        pixels[inside] = 0.6 * pixels[inside] + 0.4 * colour
    drawn = Image.fromarray(pixels)
    boxes = found.boxes * (np.array(drawn.size * 2) / np.array(image.size * 2))
    captions = [f"{labels[i]} {found.scores[i]:.2f}" for i in shown]
    tones = [colours[int(found.labels[i])] for i in shown]
    left_out = _draw_boxes(drawn, boxes[shown], captions, tones)
    hidden = len(found.scores) - len(shown)
    title = f"score {min_score:g} or more: {len(shown)}"
    return with_legend(drawn, left_out, title + (f", below: {hidden}" if hidden else ""))


def _colours(class_ids: NDArray[np.int32]) -> dict[int, Colour]:
    """A colour of its own for each class."""
    if not len(class_ids):
        return {}
    present = np.unique(class_ids)
    preferred = palette(Task.DETECTION, int(present.max(initial=0)) + 1)[present]
    chosen = distinct_colours(preferred).tolist()
    return {int(i): tuple(colour) for i, colour in zip(present, chosen, strict=True)}


def _draw_boxes(
    image: Image.Image, boxes: NDArray[np.float64], captions: list[str], colours: list[Colour]
) -> list[tuple[str, Colour | None]]:
    """Draw boxes, xyxy in pixels, and labels, best first; return labels that found no place."""
    size, pen = text_size(image), ImageDraw.Draw(image)
    line, font = max(3, size // 6), ImageFont.load_default(size)
    for box, colour in reversed(list(zip(boxes.tolist(), colours, strict=True))):
        outer = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
        pen.rectangle(outer, outline=text_on(colour), width=line + 2)  # seen on any image
        pen.rectangle(tuple(box), outline=colour, width=line)
    sizes = [(int(font.getlength(caption)) + size // 2, size + size // 3) for caption in captions]
    places = place_labels(boxes, sizes, image.size)
    labels = list(zip(boxes.tolist(), captions, colours, sizes, places, strict=True))
    for box, _, colour, (width, height), place in labels:
        if place is not None:  # first, so that no label is crossed out
            x, y = place
            corner = (min(max(box[0], x), x + width), min(max(box[1], y), y + height))
            if corner != (box[0], box[1]):
                pen.line((*corner, box[0], box[1]), fill=colour, width=max(1, line // 2))
    for _, caption, colour, (width, height), place in labels:
        if place is not None:
            x, y = place
            pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
            middle = (x + size // 4, y + height / 2)
            pen.text(middle, caption, fill=text_on(colour), font=font, anchor="lm")
    return [(label[1], label[2]) for label in labels if label[4] is None]


def rows(answers: Answers) -> list[list[str]]:
    """Class id, label, score and box (xyxy, pixels of the sent image) of each detection."""
    found = result_from_answers(answers)
    named = zip(found.labels, text(answers["labels"]), found.scores, found.boxes, strict=False)
    return [
        [str(class_id), label, f"{score:.6f}", " ".join(f"{side:.1f}" for side in box)]
        for class_id, label, score, box in named
    ]


def place_labels(
    boxes: NDArray[np.float64], sizes: Sequence[tuple[int, int]], image_size: tuple[int, int]
) -> list[tuple[int, int] | None]:
    """The upper left corner of each box's label in pixels, inside the image and none over another;
    None where no place is free. Of boxes (N, 4), xyxy in pixels, earlier ones choose first; sizes
    are width and height of each label and of the image."""
    taken = np.empty((0, 4))
    places: list[tuple[int, int] | None] = []
    for box, size in zip(boxes, sizes, strict=True):
        corners = _wanted(box, size)
        corners = np.clip(corners, 0, np.array(image_size) - size).round()
        rectangles = np.concatenate([corners, corners + size], axis=1)
        inside, one = (rectangles >= 0).all(axis=1), rectangles[:, None]
        apart = (one[..., :2] >= taken[:, 2:]) | (taken[:, :2] >= one[..., 2:])
        free = np.flatnonzero(inside & apart.any(axis=2).all(axis=1))
        if not len(free):
            places.append(None)
            continue
        first = rectangles[free[0]]
        taken = np.concatenate([taken, first[None]])
        places.append((int(first[0]), int(first[1])))
    return places


def _wanted(box: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Upper left corners (M, 2) in the order in which they are tried: above the box, inside it,
    below it, at its right, then around the box's corner from near to far."""
    (x1, y1, x2, y2), (width, height) = box, size
    at_box = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x2 - width, y1)]
    at_box += [(x1, y2), (x1, y2 - height), (x2, y1)]
    steps = np.arange(-_FARTHEST, _FARTHEST + 0.5, 0.5) * height
    around = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    around = around[np.argsort(np.hypot(*around.T), kind="stable")]
    return np.concatenate([np.array(at_box), around + np.array([x1, y1 - height])])


DRAWING = TaskDrawing(draw, ("class", "label", "score", "box x1 y1 x2 y2"), rows)
