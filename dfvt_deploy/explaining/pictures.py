"""Heat maps over their image, side by side."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .task_explanation import Heat, Target

#: The least and the greatest width or height of a drawn image in pixels.
_LEAST_SIDE, _MOST_SIDE = 360, 1200

_LINE = 20


def heat_colours(heat: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A map (H, W) as levels from 0 to 255, and as RGB colours (H, W, 3)."""
    levels = (heat * 255).round().astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return levels, np.asarray(colours, np.uint8)


def draw_maps(
    image: Image.Image, target: Target, captions: Sequence[str], maps: Sequence[Heat]
) -> Image.Image:
    """The image, and beside it each map over it with its caption below."""
    scale = min(max(1, _LEAST_SIDE / max(image.size)), _MOST_SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    panels = [(target.name, image.resize(size))]
    for caption, heat in zip(captions, maps, strict=True):
        _, colours = heat_colours(cv2.resize(heat, size))
        panels.append((caption, Image.blend(panels[0][1], Image.fromarray(colours), 0.5)))
    font = ImageFont.load_default(_LINE - 5)
    lines = [line for caption, _ in panels for line in caption.split("\n")]
    column = 8 + max(size[0], *(round(font.getlength(line)) for line in lines))
    below = _LINE * max(caption.count("\n") + 2 for caption, _ in panels)
    sheet = Image.new("RGB", (len(panels) * column, size[1] + below), "white")
    pen = ImageDraw.Draw(sheet)
    for left, (caption, panel) in zip(range(0, sheet.width, column), panels, strict=True):
        sheet.paste(panel, (left, 0))
        if target.box is not None:
            x1, y1, x2, y2 = (side * scale for side in target.box)
            pen.rectangle((left + x1, y1, left + x2, y2), outline="white", width=2)
        pen.multiline_text((left, size[1] + 4), caption, fill="black", font=font)
    return sheet
