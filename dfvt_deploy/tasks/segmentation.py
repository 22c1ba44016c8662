"""Semantic segmentation: the published test pipeline before the network, class maps after it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from . import dense
from .dense import IntArray, check_sizes, resize_and_pad
from .images import DEFAULT_LIMITS, Float32Array, ImageError, UInt8Array

#: The longest long side and the longest short side after the resize.
LONG_SIDE = 2048
SHORT_SIDE = 512

#: Pixels of the network's input per logit, either way.
LOGIT_STRIDE = 4

#: Share of the class colour in a drawn pixel, the rest being the image.
OPACITY = 0.5


def preprocess(
    image: Image.Image, canvas: tuple[int, int] | None = None
) -> tuple[UInt8Array, IntArray, IntArray]:
    """RGB image of any size to the network's pixels, resized into 2048x512 (either way round).

    Returns pixels, image_size and original_size; see `dense.resize_and_pad`.
    """
    return resize_and_pad(image, LONG_SIDE, SHORT_SIDE, canvas)


def postprocess(
    class_map: NDArray[Any], image_size: IntArray, original_size: IntArray
) -> NDArray[Any]:
    """Class map (H, W) of the network to that of the sent image, uint8 or int32 as it came.

    The padding is cropped, the rest resized to `original_size` by exact nearest neighbour.
    """
    height, width = (int(side) for side in image_size)
    original_height, original_width = (int(side) for side in original_size)
    return cv2.resize(
        np.ascontiguousarray(class_map[:height, :width]),
        (original_width, original_height),
        interpolation=cv2.INTER_NEAREST_EXACT,
    )


def published_class_map(
    logits: Float32Array, image_size: IntArray, original_size: IntArray
) -> NDArray[np.int32]:
    """Logits (classes, H/4, W/4) to the class map int32 at `original_size`, as mmsegmentation.

    The logits are resized to the canvas, cropped to `image_size` and resized to `original_size`,
    bilinear both times, and only then compared. Of equal logits the lower class id wins. Costs a
    full-size resize for each class; `postprocess` is what is served.
    """
    canvas = logits.shape[2] * LOGIT_STRIDE, logits.shape[1] * LOGIT_STRIDE
    height, width = (int(side) for side in image_size)
    original = int(original_size[1]), int(original_size[0])
    best = np.full(original[::-1], -np.inf, np.float32)
    classes = np.zeros(original[::-1], np.int32)
    for index, plane in enumerate(logits):
        enlarged = cv2.resize(plane, canvas, interpolation=cv2.INTER_LINEAR)[:height, :width]
        resized = cv2.resize(enlarged, original, interpolation=cv2.INTER_LINEAR)
        np.copyto(classes, index, where=resized > best)
        np.maximum(best, resized, out=best)
    return classes


def pixel_agreement(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Share of pixels at which two class maps of one size agree, 0 to 1."""
    if first.shape != second.shape:
        raise ValueError(f"class maps of {first.shape} and {second.shape} cannot be compared")
    return float(np.mean(first == second))


def encode_class_map(class_map: NDArray[Any], num_classes: int) -> bytes:
    """Class map (H, W) to a PNG of class ids: 8-bit grey, 16-bit above 256 classes.

    Raises:
        ValueError: a class id is outside 0 to num_classes - 1, or does not fit 16 bits.
    """
    lowest, highest = int(class_map.min()), int(class_map.max())
    if lowest < 0 or highest >= min(num_classes, 2**16):
        raise ValueError(f"class ids {lowest}..{highest} are outside 0..{num_classes - 1}")
    if num_classes <= 256:
        _, encoded = cv2.imencode(".png", class_map.astype(np.uint8))
    else:
        _, encoded = cv2.imencode(".png", class_map.astype(np.uint16))
    return encoded.tobytes()


def decode_class_map(data: bytes) -> NDArray[Any]:
    """The class map (H, W) in a PNG of `encode_class_map`, uint8 or uint16.

    Raises:
        ImageError: not a PNG of one channel.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in ("L", "I;16"):
                raise ImageError(f"class map is a PNG of mode {image.mode}, not of class ids")
            return np.array(image)
    except OSError as error:
        raise ImageError(f"class map is not a PNG: {error}") from error


def network_inputs(
    images: Iterable[Image.Image], canvas: tuple[int, int] | None = None
) -> dict[str, NDArray[Any]]:
    """RGB images to the network's inputs and what `answers` needs; see `dense.network_inputs`."""
    return dense.network_inputs(preprocess(image, canvas) for image in images)


def answers(
    outputs: Mapping[str, NDArray[Any]],
    labels: Sequence[str],
    max_pixels: int = DEFAULT_LIMITS.max_pixels,
) -> dict[str, NDArray[Any]]:
    """What the served model answers, from `class_map` (N, H, W), `image_sizes` and
    `original_sizes`: `class_map` (N, 1), a PNG each (bytes as objects). See `postprocess`.

    Raises:
        ImageError: sizes or class ids that no network of this kind gives.
    """
    check_sizes(outputs["image_sizes"], outputs["original_sizes"], max_pixels)
    canvas = outputs["class_map"].shape[1:]
    if (outputs["image_sizes"] > canvas).any():
        raise ImageError(f"image_sizes {outputs['image_sizes'].tolist()} exceed {list(canvas)}")
    if int(outputs["class_map"].max()) >= len(labels):
        raise ImageError(f"class id {outputs['class_map'].max()} is not below {len(labels)}")
    maps = zip(outputs["class_map"], outputs["image_sizes"], outputs["original_sizes"], strict=True)
    encoded = [
        encode_class_map(postprocess(class_map, size, original), len(labels))
        for class_map, size, original in maps
    ]
    return {"class_map": np.array(encoded, dtype=np.object_).reshape(-1, 1)}


def class_shares(class_map: NDArray[Any]) -> list[tuple[int, float]]:
    """Class ids present and their share of the pixels, largest first."""
    counts = np.bincount(class_map.ravel())
    order = np.argsort(-counts, kind="stable")
    return [(int(i), float(counts[i] / class_map.size)) for i in order if counts[i]]


def draw(
    image: Image.Image, class_map: NDArray[Any], palette: UInt8Array, labels: Sequence[str]
) -> Image.Image:
    """RGB image with its class map over it, and below a legend of the classes present.

    Args:
        class_map: (H, W) at the size of the image.
        palette: uint8 RGB (classes, 3).
        labels: class names, as many as colours.

    Raises:
        ValueError: the sizes differ, or a class has no colour or name.
    """
    if class_map.shape != (image.height, image.width):
        raise ValueError(
            f"class map of {class_map.shape} is not of the image's {(image.height, image.width)}"
        )
    shares = class_shares(class_map)
    known = min(len(palette), len(labels))
    if (highest := max(index for index, _ in shares)) >= known:
        raise ValueError(f"class id {highest} has no colour or name; {known} are given")
    drawn = Image.blend(image, Image.fromarray(palette[class_map]), OPACITY)
    legend = _legend(
        [(f"{labels[i]} {_percent(share)}", tuple(palette[i].tolist())) for i, share in shares],
        image.width,
    )
    sheet = Image.new("RGB", (legend.width, drawn.height + legend.height), "white")
    sheet.paste(drawn, (0, 0))
    sheet.paste(legend, (0, drawn.height))
    return sheet


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def _legend(entries: list[tuple[str, tuple[int, ...]]], width: int) -> Image.Image:
    """Colours with their texts in columns on white, at least one column wide."""
    size = min(max(width // 50, 12), 64)
    font = ImageFont.load_default(size)
    line, gap = size + size // 2, size // 2
    column = max(int(font.getlength(text)) for text, _ in entries) + line + 2 * gap
    columns = max(1, width // column)
    rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (max(width, column), rows * line + gap), "white")
    pen = ImageDraw.Draw(legend)
    for position, (text, colour) in enumerate(entries):
        left = position // rows * column + gap
        top = position % rows * line + gap
        pen.rectangle((left, top, left + size - 1, top + size - 1), fill=colour, outline="black")
        pen.text((left + line, top + size / 2), text, fill="black", font=font, anchor="lm")
    return legend
