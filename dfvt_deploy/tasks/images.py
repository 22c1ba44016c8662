"""From encoded bytes to RGB pixels, within limits, and from pixels to the network's input."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]

#: Decoders that are enabled; every other format is refused unread.
FORMATS = ("JPEG", "PNG", "WEBP")

#: Mean and standard deviation per channel (RGB, grey levels 0..255) of every DFvT model.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


#: Pillow refuses more by itself, as a defence against decompression bombs.
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**30)


class ImageError(ValueError):
    """An image that cannot be used. The message says why, with the value and the limit."""


@dataclass(frozen=True)
class ImageLimits:
    """What is checked before anything is decoded: encoded size and width times height."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise ValueError(f"max_pixels {self.max_pixels} is outside 1..{MOST_PIXELS}")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes {self.max_bytes} is below 1")


DEFAULT_LIMITS = ImageLimits()


def decode_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Decode one JPEG, PNG or WebP to an RGB image.

    The first frame is taken, EXIF orientation applied, alpha dropped. Modes are converted as
    Pillow's `convert("RGB")` does, which is what the published pipeline uses (16-bit grey
    therefore saturates at 255).

    Raises:
        ImageError: over a limit, another format, or not decodable.
    """
    if not data:
        raise ImageError("image is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageError(
            f"image has {len(data):,} bytes, the limit is {limits.max_bytes:,}; "
            "send a smaller file or raise --max-bytes"
        )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > limits.max_pixels:
                raise _too_many_pixels(f"{image.width}x{image.height} = {pixels:,}", limits)
            image.load()
            return _upright(image).convert("RGB")
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise _too_many_pixels(f"over {MOST_PIXELS:,}", limits) from None
    except UnidentifiedImageError:
        raise ImageError(
            f"image is not one of {', '.join(FORMATS)} (begins with {data[:8].hex(' ')})"
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise ImageError(f"image cannot be decoded: {error or type(error).__name__}") from error


def _too_many_pixels(found: str, limits: ImageLimits) -> ImageError:
    return ImageError(
        f"image has {found} pixels, the limit is {limits.max_pixels:,}; "
        "send a smaller image or raise --max-pixels"
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata does not make the pixels unusable
        return image


def normalise(images: NDArray[Any]) -> Float32Array:
    """uint8 RGB (N, H, W, 3) to the float32 (N, 3, H, W) that every network is defined on."""
    mean, std = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)
    return np.ascontiguousarray(((images.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))
