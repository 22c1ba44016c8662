"""Heat maps by occlusion, which needs answers only, how far a heat map can be believed, and heat
maps over their image, side by side."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..drawing import Answers
from ..runners.triton import TritonRunner, image_request
from .task_explanation import Ask, Box, Heat, Target, TaskExplanation

#: Parts of an image that are deleted or inserted one after the other.
STEPS = 10

#: Answers that `faithfulness` asks for.
FAITHFULNESS_ANSWERS = 2 * (STEPS + 1) + 1


def occlusion_maps(
    task: TaskExplanation, grid: int, ask: Ask, image: Image.Image, targets: Sequence[Target]
) -> list[Heat]:
    """For each target, the mean loss of its score where windows cover the image: `grid` times
    `grid`, each overlapping the next by half, filled with the mean colour. A loss below zero counts
    as none."""
    seen = task.seen(*image.size)
    pixels, colour = np.array(image), _mean_colour(image, seen)
    columns = np.linspace(seen[0], seen[2], grid + 2).round().astype(int)
    rows = np.linspace(seen[1], seen[3], grid + 2).round().astype(int)
    losses = np.zeros((len(targets), grid + 1, grid + 1))
    answers = ask(image)
    whole = np.array([task.score(answers, target) for target in targets])
    for i, j in np.ndindex(grid, grid):
        covered = pixels.copy()
        covered[rows[i] : rows[i + 2], columns[j] : columns[j + 2]] = colour
        answers = ask(Image.fromarray(covered))
        loss = whole - [task.score(answers, target) for target in targets]
        losses[:, i : i + 2, j : j + 2] += loss[:, None, None]
    windows = np.ones(grid + 1)
    windows[1:-1] = 2
    maps = (losses / np.outer(windows, windows)).clip(0)
    return [over_image(heat, image, seen) for heat in maps]


def ask_server(runner: TritonRunner, image: Image.Image) -> Answers:
    """The answers of an ensemble for an image, which is sent as PNG."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    answers = runner.infer(image_request(encoded.getvalue()))
    return {name: value[0] for name, value in answers.items()}


def _mean_colour(image: Image.Image, seen: Box) -> NDArray[np.uint8]:
    pixels = np.asarray(image.crop(seen)).reshape(-1, 3)
    return pixels.mean(axis=0).round().astype(np.uint8)


def over_image(
    heat: NDArray[np.float64], image: Image.Image, seen: Box, valid: Sequence[float] = (1.0, 1.0)
) -> Heat:
    """A map (h, w) over the network's input, a share `valid` of which is the image, over it."""
    left, top, right, bottom = seen
    whole = round((right - left) / valid[1]), round((bottom - top) / valid[0])
    enlarged = cv2.resize(heat.astype(np.float32), whole, interpolation=cv2.INTER_LINEAR)
    placed = np.zeros((image.height, image.width), np.float32)
    placed[top:bottom, left:right] = enlarged[: bottom - top, : right - left]
    return placed / max(float(placed.max()), 1e-12)


class Faithfulness(NamedTuple):
    """The mean score while pixels are deleted and while they are inserted, the hottest first, as
    shares of the whole image's score (Petsiuk et al., BMVC 2018).

    figure: insertion minus deletion. Those of a random order are equal, so 0 is chance.
    """

    deletion: float
    insertion: float
    figure: float


def faithfulness(
    task: TaskExplanation, ask: Ask, image: Image.Image, target: Target, heat: Heat
) -> Faithfulness:
    """Ask about the image while parts of what is seen of it have its mean colour."""
    left, top, right, bottom = seen = task.seen(*image.size)
    pixels, empty = np.array(image), np.array(image)
    empty[top:bottom, left:right] = _mean_colour(image, seen)
    places = np.arange(heat.size).reshape(heat.shape)[top:bottom, left:right].ravel()
    places = places[np.argsort(-heat.ravel()[places], kind="stable")]

    def mean_score(start: NDArray[np.uint8], end: NDArray[np.uint8]) -> float:
        changed = start.copy()
        curve = [task.score(ask(Image.fromarray(changed)), target)]
        for chosen in np.array_split(places, STEPS):
            changed.reshape(-1, 3)[chosen] = end.reshape(-1, 3)[chosen]
            curve.append(task.score(ask(Image.fromarray(changed)), target))
        return float(np.mean(curve[1:] + curve[:-1]))  # the area of trapezoids

    whole = max(task.score(ask(image), target), 1e-9)
    deletion, insertion = mean_score(pixels, empty) / whole, mean_score(empty, pixels) / whole
    return Faithfulness(deletion, insertion, insertion - deletion)


def correlation(first: Heat, second: Heat, seen: Box) -> float:
    """Spearman's correlation of two maps where the image is seen; 0 where one is even."""
    left, top, right, bottom = seen
    ranks = []
    for heat in (first, second):
        part = cv2.resize(heat[top:bottom, left:right], (64, 64), interpolation=cv2.INTER_AREA)
        _, inverse, counts = np.unique(part, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - counts / 2)[inverse.ravel()])  # equal ones share a rank
    return float(np.corrcoef(*ranks)[0, 1]) if all(map(np.ptp, ranks)) else 0.0


def heat_colours(heat: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A map (H, W) as levels from 0 to 255, and as RGB colours (H, W, 3)."""
    levels = (heat * 255).round().astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return levels, np.asarray(colours, np.uint8)


def draw_maps(
    image: Image.Image, target: Target, captions: Sequence[str], maps: Sequence[Heat]
) -> Image.Image:
    """The image, and beside it each map over it with its caption below."""
    scale = min(max(360, *image.size), 1200) / max(image.size)
    line, font = 20, ImageFont.load_default(15)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    panels = [(target.name, image.resize(size))]
    for caption, heat in zip(captions, maps, strict=True):
        _, colours = heat_colours(cv2.resize(heat, size))
        panels.append((caption, Image.blend(panels[0][1], Image.fromarray(colours), 0.5)))
    texts = [text for caption, _ in panels for text in caption.split("\n")]
    column = 8 + max(size[0], *(round(font.getlength(text)) for text in texts))
    below = line * max(caption.count("\n") + 2 for caption, _ in panels)
    sheet = Image.new("RGB", (len(panels) * column, size[1] + below), "white")
    pen = ImageDraw.Draw(sheet)
    for left, (caption, panel) in zip(range(0, sheet.width, column), panels, strict=True):
        sheet.paste(panel, (left, 0))
        if target.box is not None:
            x1, y1, x2, y2 = (side * scale for side in target.box)
            pen.rectangle((left + x1, y1, left + x2, y2), outline="white", width=2)
        pen.multiline_text((left, size[1] + 4), caption, fill="black", font=font)
    return sheet
