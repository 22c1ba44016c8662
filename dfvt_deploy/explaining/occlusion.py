"""Occlusion: what an answer loses where a part of the image is covered. It needs answers only."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..runners.triton import TritonRunner
from .task_explanation import Answers, Ask, Box, Heat, Target, TaskExplanation


def occlusion_maps(
    task: TaskExplanation, grid: int, ask: Ask, image: Image.Image, targets: Sequence[Target]
) -> list[Heat]:
    """For each target, the mean loss of its score where windows cover the image.

    `grid` times `grid` windows, each overlapping the next by half, are filled with the mean colour.
    A loss below zero counts as none.
    """
    seen = task.seen(*image.size)
    pixels, colour = np.array(image), mean_colour(image, seen)
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


def mean_colour(image: Image.Image, seen: Box) -> NDArray[np.uint8]:
    """The mean colour of a part of an image."""
    pixels = np.asarray(image.crop(seen)).reshape(-1, 3)
    return pixels.mean(axis=0).round().astype(np.uint8)


def over_image(
    heat: NDArray[np.float64], image: Image.Image, seen: Box, valid: Sequence[float] = (1.0, 1.0)
) -> Heat:
    """A map (h, w) over the network's input as one over the image.

    Args:
        valid: the share of the input's height and width that holds the image; the rest is padding.
    """
    left, top, right, bottom = seen
    whole = round((right - left) / valid[1]), round((bottom - top) / valid[0])
    enlarged = cv2.resize(heat.astype(np.float32), whole, interpolation=cv2.INTER_LINEAR)
    placed = np.zeros((image.height, image.width), np.float32)
    placed[top:bottom, left:right] = enlarged[: bottom - top, : right - left]
    return placed / max(float(placed.max()), 1e-12)


def ask_server(runner: TritonRunner, image: Image.Image) -> Answers:
    """The answers of an ensemble for an image, which is sent as PNG."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    answers = runner.infer({"image": np.array([[encoded.getvalue()]], np.object_)})
    return {name: value[0] for name, value in answers.items()}
