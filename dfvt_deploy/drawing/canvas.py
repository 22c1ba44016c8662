"""What the drawings of all tasks share: sizes, colours that can be told apart, and legends."""

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour: TypeAlias = tuple[int, ...]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

#: Least length in pixels of the longest and of the shortest side of a drawing; an image is enlarged
#: to them, but for the shortest side no further than until the longest has `_MOST_ENLARGED`.
_LEAST_LONGEST, _LEAST_SHORTEST, _MOST_ENLARGED = 640, 320, 1600

#: Least distance in CIELAB of two colours that are told apart at a glance, half transparent too.
_APART = 40.0

#: Least lightness of a colour, of 255, below which black text on it is not read.
_DARK = 130


def scaled(image: Image.Image, side: int | None) -> Image.Image:
    """The RGB image at the size at which it is drawn: its longest side `side` pixels long, or
    without `side` as it is, small ones enlarged."""
    longest, shortest = max(image.size), min(image.size)
    enlarged = min(_LEAST_SHORTEST / shortest, _MOST_ENLARGED / longest)
    scale = side / longest if side else max(1.0, _LEAST_LONGEST / longest, enlarged)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.convert("RGB").resize((width, height))


def text_size(image: Image.Image) -> int:
    """Height of the text on an image of this size, in pixels."""
    return max(14, round(math.sqrt(image.width * image.height) / 45))


def panel_font(image: Image.Image) -> tuple[int, Font]:
    """The height of the text in a panel below an image, in pixels, and its font."""
    size = min(text_size(image), max(14, image.width // 24))
    return size, ImageFont.load_default(size)


def percent(share: float) -> str:
    """A share of 1 in percent, with one digit behind the point."""
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def text_on(colour: Colour) -> str:
    """Black or white, whichever is read on a colour."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > _DARK else "white"


def distinct_colours(preferred: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colours (N, 3) uint8 RGB, where one that is much like an earlier one is replaced by
    the one farthest from all earlier ones. No two are equal."""
    candidates = np.array(list(itertools.product(range(0, 256, 51), repeat=3)), np.uint8)
    candidates = candidates[np.ptp(candidates, axis=1) >= 102]  # no greys
    candidate_lab, preferred_lab = _lab(candidates), _lab(preferred)
    nearest = np.full(len(candidates), np.inf)
    found, taken = preferred.copy(), np.empty_like(preferred_lab)
    for i, lab in enumerate(preferred_lab):
        if i and np.linalg.norm(taken[:i] - lab, axis=1).min() < _APART:
            farthest = int(nearest.argmax())
            found[i], lab = candidates[farthest], candidate_lab[farthest]
        taken[i] = lab
        nearest = np.minimum(nearest, np.linalg.norm(candidate_lab - lab, axis=1))
    return found


def _lab(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    pixels = colours.reshape(1, -1, 3).astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[0], np.float32)


def with_legend(
    image: Image.Image, entries: Sequence[tuple[str, Colour | None]], title: str = ""
) -> Image.Image:
    """The image above a legend: the title, then each text behind a square of its colour, in
    columns. A text that is wider than the image makes the whole wider."""
    size, font = panel_font(image)
    line, gap = size + size // 2, size // 2
    widest = max((font.getlength(caption) for caption, _ in entries), default=0)
    column = int(widest) + line + 2 * gap
    columns = max(1, image.width // column)
    count = -(-len(entries) // columns)
    top = image.height + gap + (line if title else 0)
    width = max(image.width, column if entries else 0, int(font.getlength(title)) + 2 * gap)
    sheet = Image.new("RGB", (width, top + count * line), "white")
    sheet.paste(image, (0, 0))
    pen = ImageDraw.Draw(sheet)
    if title:
        place = (gap, image.height + gap + size / 2)
        pen.text(place, title, fill="black", font=font, anchor="lm")
    for position, (caption, colour) in enumerate(entries):
        left, upper = position // count * column + gap, position % count * line + top
        if colour is not None:
            box = (left, upper, left + size - 1, upper + size - 1)
            pen.rectangle(box, fill=colour, outline="black")
        pen.text((left + line, upper + size / 2), caption, fill="black", font=font, anchor="lm")
    return sheet
