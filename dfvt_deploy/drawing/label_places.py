"""Places for the labels of boxes: inside the image, none over another."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: How far from its box a label may be, in heights of a label.
_FARTHEST = 6


def place_labels(
    boxes: NDArray[np.float64], sizes: Sequence[tuple[int, int]], image_size: tuple[int, int]
) -> list[tuple[int, int] | None]:
    """The upper left corner of each box's label in pixels; None where no place is free.

    Args:
        boxes: (N, 4) xyxy in pixels; earlier ones choose first.
        sizes: width and height of each label.
        image_size: width and height of the image.
    """
    taken = np.empty((0, 4))
    places: list[tuple[int, int] | None] = []
    for box, size in zip(boxes, sizes, strict=True):
        corners = _wanted(box, size)
        corners = np.clip(corners, 0, np.array(image_size) - size).round()
        rectangles = np.concatenate([corners, corners + size], axis=1)
        inside = (rectangles >= 0).all(axis=1)
        free = np.flatnonzero(inside & ~_overlap(rectangles, taken).any(axis=1))
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
    at_box = [
        (x1, y1 - height),
        (x1, y1),
        (x2 - width, y1 - height),
        (x2 - width, y1),
        (x1, y2),
        (x1, y2 - height),
        (x2, y1),
    ]
    steps = np.arange(-_FARTHEST, _FARTHEST + 0.5, 0.5) * height
    around = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    around = around[np.argsort(np.hypot(*around.T), kind="stable")]
    return np.concatenate([np.array(at_box), around + np.array([x1, y1 - height])])


def _overlap(some: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether rectangles (M, 4) and (N, 4) xyxy have area in common, as (M, N)."""
    a, b = some[:, None], others[None]
    apart = (a[..., :2] >= b[..., 2:]) | (b[..., :2] >= a[..., 2:])
    return np.asarray(~apart.any(axis=-1), bool)
