"""What detection and segmentation do alike before the network: resize, then pad to its grid."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images import UInt8Array

#: Sides of the network's input are multiples of this.
MULTIPLE = 32


def resize_and_pad(
    image: Image.Image, long_side: int, short_side: int, canvas: tuple[int, int] | None = None
) -> tuple[UInt8Array, NDArray[np.int64], NDArray[np.int64]]:
    """RGB image of any size to the network's pixels.

    The ratio is kept: the longer side becomes at most `long_side` and the shorter at most
    `short_side`, up or down, bilinear. The right and bottom are padded to the image's own next
    multiple of 32, or to `canvas` (height, width), which the resized image then fits into. What
    the padding holds does not matter: the network zeroes it after normalisation.

    Returns:
        uint8 RGB (H, W, 3), the height and width of the image within it, and those it had;
        both int64 (2,).
    """
    original = image.height, image.width
    size = resized_size(*original, long_side, short_side, canvas)
    height, width = canvas or tuple(-(-side // MULTIPLE) * MULTIPLE for side in size)
    resized = cv2.resize(np.asarray(image), size[::-1], interpolation=cv2.INTER_LINEAR)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: size[0], : size[1]] = resized
    return pixels, np.array(size, np.int64), np.array(original, np.int64)


def resized_size(
    height: int, width: int, long_side: int, short_side: int, canvas: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Height and width after the resize, each at least 1."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    if canvas is not None:
        if any(side < MULTIPLE or side % MULTIPLE for side in canvas):
            raise ValueError(
                f"canvas {canvas[0]}x{canvas[1]} is not in multiples of {MULTIPLE} from {MULTIPLE}"
            )
        scale = min(scale, canvas[0] / height, canvas[1] / width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
