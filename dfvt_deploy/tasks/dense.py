"""What detection and segmentation do alike before the network: resize, then pad to its grid."""

from collections.abc import Iterable
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images import MAX_SIDE, ImageError, UInt8Array, original_size

IntArray = NDArray[np.int64]

#: Pixels uint8 RGB (H, W, 3), image_size int64 (2,) and original_size int64 (2,); the sizes are
#: height and width.
Prepared: TypeAlias = tuple[UInt8Array, IntArray, IntArray]

#: Height and width of the network's input are multiples of it.
SIZE_MULTIPLE = 32


def resize_and_pad(
    image: Image.Image, canvas: tuple[int, int] | None = None, *, long_side: int, short_side: int
) -> Prepared:
    """RGB image of any size to the network's pixels, its size therein, and its own size. The image
    is resized in proportion, up or down, bilinear: the longer side becomes at most `long_side` and
    the shorter at most `short_side`. It is padded with zeros right and bottom to its own next
    multiples of 32, or to the fixed canvas of a static export, which also limits the scale. The
    network replaces what lies outside the image by the published padding. Raises ImageError where a
    side is 0 or longer than 65,535 pixels, ValueError where the canvas is not of multiples of 32.
    """
    if not 1 <= min(image.size) <= max(image.size) <= MAX_SIDE:
        raise ImageError(
            f"image is {image.width}x{image.height}, each side must be 1 to {MAX_SIDE:,} pixels",
            "pixels",
        )
    original = original_size(image)[::-1]
    height, width = resized_size(*original, long_side, short_side, canvas)
    resized = cv2.resize(np.asarray(image), (width, height), interpolation=cv2.INTER_LINEAR)
    if canvas is None:
        canvas = next_multiple(height), next_multiple(width)
    pixels = np.zeros((*canvas, 3), np.uint8)
    pixels[:height, :width] = resized
    return pixels, np.array([height, width], np.int64), np.array(original, np.int64)


def check_sizes(image_sizes: IntArray, original_sizes: IntArray, max_pixels: int) -> None:
    """Refuse sizes that no preprocessing made, before anything of that size is made. Raises
    ImageError where a side is out of range, or an original image has more than `max_pixels`."""
    for name, sizes in (("image_sizes", image_sizes), ("original_sizes", original_sizes)):
        if sizes.min() < 1 or sizes.max() > MAX_SIDE:
            raise ImageError(f"{name} {sizes.tolist()} is not all within 1..{MAX_SIDE}")
    pixels = int(original_sizes.prod(axis=1).max())
    if pixels > max_pixels:
        raise ImageError(f"original image of {pixels:,} pixels, the limit is {max_pixels:,}")


def preprocess_batch(
    images: Iterable[Image.Image],
    canvas: tuple[int, int] | None = None,
    *,
    long_side: int,
    short_side: int,
) -> dict[str, NDArray[Any]]:
    """Images of one request, as `resize_and_pad` takes them, to `images` uint8 RGB (N, H, W, 3),
    `image_sizes` and `original_sizes` int64 (N, 2). Raises ImageError where the images need
    different canvases; another padding would be another answer."""
    prepared = (
        resize_and_pad(image, canvas, long_side=long_side, short_side=short_side)
        for image in images
    )
    pixels, sizes, originals = zip(*prepared, strict=True)
    canvases = sorted({image.shape[:2] for image in pixels})
    if len(canvases) > 1:
        needed = ", ".join(f"{height}x{width}" for height, width in canvases)
        raise ImageError(
            f"the images of a request need different canvases ({needed}); send each alone",
            "canvas",
        )
    return {
        "images": np.stack(pixels),
        "image_sizes": np.stack(sizes),
        "original_sizes": np.stack(originals),
    }


def resized_size(
    height: int, width: int, long_side: int, short_side: int, canvas: tuple[int, int] | None = None
) -> tuple[int, int]:
    """Height and width after the resize; ValueError where the canvas is not of multiples of 32."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    if canvas is not None:
        if any(side < 1 or side % SIZE_MULTIPLE for side in canvas):
            raise ValueError(f"canvas {canvas} is not of positive multiples of {SIZE_MULTIPLE}")
        scale = min(scale, canvas[0] / height, canvas[1] / width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def next_multiple(side: int) -> int:
    """The side of a canvas that holds a side of an image."""
    return -(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE
