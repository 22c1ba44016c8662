"""From encoded bytes to RGB pixels, within limits, and from pixels to the network's input."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]

#: Decoders that are enabled; every other format is refused unread.
FORMATS = ("JPEG", "PNG", "WEBP")

#: Mean and standard deviation per channel (RGB, grey levels 0..255) of every DFvT model.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


#: Pillow refuses more by itself, as a defence against decompression bombs.
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**30)

#: Longest side of an image, which is also JPEG's. Pillow keeps a pointer for each row, so that a
#: column of 50,000,000 pixels takes 1.5 GB.
MAX_SIDE = 65_535

#: Most scans of a JPEG, a thumbnail's included, and of a large one. A progressive file has about
#: 10; each scan passes over the whole image, so that thousands keep a processor busy for minutes.
MAX_SCANS = 40
SCANS_OF_LARGE = 14
_MAX_SCANNED_PIXELS = 500_000_000

_START_OF_SCAN = b"\xff\xda"

#: How often the beginnings of metadata may stand in a file. Pillow copies all that it has of EXIF
#: for each further part (20 MB take minutes), and unpacks each colour profile of a PNG.
_MOST_METADATA = {b"Exif\0\0": 400, b"iCCP": 16}


#: Why images are refused, in a word each: what counters and logs hold of an `ImageError`.
REASONS = ("bytes", "canvas", "damaged", "format", "pixels", "scans", "tensors")


class ImageError(ValueError):
    """An image, or tensors in its place, that cannot be used. The message says why, with the value
    and the limit, and may hold bytes of the image; `reason` is one of `REASONS`."""

    def __init__(self, message: str, reason: str = "tensors") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ImageLimits:
    """Limits of an encoded image in bytes and of width times height, checked before decoding."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= MOST_PIXELS:
            raise ValueError(f"max_pixels {self.max_pixels} is outside 1..{MOST_PIXELS}")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes {self.max_bytes} is below 1")


DEFAULT_LIMITS = ImageLimits()


def decode_image(
    data: bytes,
    limits: ImageLimits = DEFAULT_LIMITS,
    resized_size: Callable[[int, int], tuple[int, int]] | None = None,
) -> Image.Image:
    """Decode one JPEG, PNG or WebP to an RGB image. The first frame is taken, EXIF orientation
    applied, alpha dropped. Modes are converted as Pillow's `convert("RGB")` does, which is what the
    published pipeline uses (16-bit grey therefore saturates at 255). With the task's `resized_size`
    a JPEG is decoded at 1/8, 1/4 or 1/2 of its size where its resize does not enlarge that;
    `original_size` is then the size in the file. Raises ImageError over a limit, for another
    format, or if not decodable."""
    if not data:
        raise ImageError("image is empty (0 bytes)", "format")
    if len(data) > limits.max_bytes:
        raise ImageError(
            f"image has {len(data):,} bytes, the limit is {limits.max_bytes:,}; "
            "send a smaller file or raise --max-bytes",
            "bytes",
        )
    for name, most in _MOST_METADATA.items():
        if (count := data.count(name)) > most:
            text = f"image has {count:,} parts of {name[:4].decode()} metadata, the limit is {most}"
            raise ImageError(text, "damaged")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_header(image, data, limits)
            size, scaled = image.size, None
            if resized_size:  # of the image either way round, as its orientation is not known yet
                needed = zip(resized_size(*size), resized_size(*size[::-1])[::-1], strict=True)
                width, height = map(max, needed)
                scaled = image.draft(None, (width, height))  # what is no JPEG stays as it is
            image.load()
            whole: Image.Image = image
            if scaled and scaled[1][2:] != image.size:  # the last pixels are partly beyond it
                whole = image.resize(image.size, box=scaled[1])
            upright, size = _upright(whole, size)
            decoded = upright if upright.mode == "RGB" else upright.convert("RGB")
            if resized_size:
                decoded.original_size = size  # type: ignore[attr-defined]
            return decoded
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise _too_many_pixels(f"over {MOST_PIXELS:,}", limits) from None
    except UnidentifiedImageError:
        raise ImageError(
            f"image is not one of {', '.join(FORMATS)} (begins with {data[:8].hex(' ')})",
            "format",
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        text = f"image cannot be decoded: {error or type(error).__name__}"
        raise ImageError(text, "damaged") from error


def _check_header(image: Image.Image, data: bytes, limits: ImageLimits) -> None:
    """Refuse an image that would need too much memory or time, by its header and its markers."""
    pixels = image.width * image.height
    if pixels > limits.max_pixels:
        raise _too_many_pixels(f"{image.width}x{image.height} = {pixels:,}", limits)
    if max(image.size) > MAX_SIDE:
        raise ImageError(
            f"image is {image.width}x{image.height}, each side must be 1 to {MAX_SIDE:,} pixels",
            "pixels",
        )
    # Within a scan, a byte 0xff is never followed by 0xda, so this counts the scans. Pillow calls a
    # JPEG with a further image in it MPO.
    scans = data.count(_START_OF_SCAN) if image.format in ("JPEG", "MPO") else 0
    limit = max(SCANS_OF_LARGE, min(MAX_SCANS, _MAX_SCANNED_PIXELS // pixels))
    if scans > limit:
        raise ImageError(
            f"image has {scans:,} JPEG scans, the limit at its size is {limit}; encode it as "
            "baseline JPEG",
            "scans",
        )


def _too_many_pixels(found: str, limits: ImageLimits) -> ImageError:
    return ImageError(
        f"image has {found} pixels, the limit is {limits.max_pixels:,}; "
        "send a smaller image or raise --max-pixels",
        "pixels",
    )


def _upright(image: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        if orientation not in range(2, 9):
            return image, size
        turned = orientation in (5, 6, 7, 8)
        return ImageOps.exif_transpose(image), size[::-1] if turned else size
    except Exception:  # damaged metadata does not make the pixels unusable
        return image, size


def original_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image in its file, upright, whatever scale it was decoded at."""
    return getattr(image, "original_size", image.size)


def decoded_fast(image: Image.Image) -> bool:
    """Whether an image was decoded with `resized_size`, so that exact pixels are not asked for."""
    return hasattr(image, "original_size")


def normalise(images: NDArray[Any]) -> Float32Array:
    """uint8 RGB (N, H, W, 3) to the float32 (N, 3, H, W) that every network is defined on."""
    mean, std = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)
    return np.ascontiguousarray(((images.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))
