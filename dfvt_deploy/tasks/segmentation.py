"""Semantic segmentation: the published test pipeline before the network, class maps after it."""

import io
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import dense
from .dense import IntArray, check_sizes
from .images import DEFAULT_LIMITS, ImageError

#: The longest long side and the longest short side after the resize.
LONG_SIDE = 2048
SHORT_SIDE = 512

#: Preprocessing of one image and of a request's, into 2048x512 (either way round); see `dense`.
preprocess = partial(dense.resize_and_pad, long_side=LONG_SIDE, short_side=SHORT_SIDE)
preprocess_batch = partial(dense.preprocess_batch, long_side=LONG_SIDE, short_side=SHORT_SIDE)
resized_size = partial(dense.resized_size, long_side=LONG_SIDE, short_side=SHORT_SIDE)

#: Images that a TensorRT engine takes at once by default: least, usual, largest.
ENGINE_BATCHES = (1, 1, 4)

#: Height and width that an engine is fastest at by default: the canvas of a 4:3 photograph.
USUAL_SIZE = (512, 704)

#: Pixels of the network's input per logit, either way.
LOGIT_STRIDE = 4


def postprocess(
    class_map: NDArray[Any], image_size: IntArray, original_size: IntArray
) -> NDArray[Any]:
    """Class map (H, W) of the network to that of the sent image, uint8 or int32 as it came: the
    padding is cropped, the rest resized to `original_size` by exact nearest neighbour."""
    height, width = (int(side) for side in image_size)
    original_height, original_width = (int(side) for side in original_size)
    return cv2.resize(
        np.ascontiguousarray(class_map[:height, :width]),
        (original_width, original_height),
        interpolation=cv2.INTER_NEAREST_EXACT,
    )


def encode_class_map(class_map: NDArray[Any], num_classes: int) -> bytes:
    """Class map (H, W) to a PNG of class ids: 8-bit grey, 16-bit above 256 classes. Raises
    ValueError where a class id is outside 0 to num_classes - 1, or does not fit 16 bits."""
    lowest, highest = int(class_map.min()), int(class_map.max())
    if lowest < 0 or highest >= min(num_classes, 2**16):
        raise ValueError(f"class ids {lowest}..{highest} are outside 0..{num_classes - 1}")
    _, encoded = cv2.imencode(".png", class_map.astype("u1" if num_classes <= 256 else "u2"))
    return encoded.tobytes()


def decode_class_map(data: bytes) -> NDArray[Any]:
    """The class map (H, W) in a PNG of `encode_class_map`, uint8 or uint16, else ImageError."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in ("L", "I;16"):
                raise ImageError(f"class map is a PNG of mode {image.mode}, not of class ids")
            return np.array(image)
    except OSError as error:
        raise ImageError(f"class map is not a PNG: {error}") from error


def postprocess_batch(
    outputs: Mapping[str, NDArray[Any]],
    labels: Sequence[str],
    max_pixels: int = DEFAULT_LIMITS.max_pixels,
    wanted: Collection[str] = ("class_map", "labels"),
) -> dict[str, NDArray[Any]]:
    """The network's `class_map` integers (N, H, W), and `image_sizes` and `original_sizes` int64
    (N, 2) as preprocessing gave them, to the served answers; `max_pixels` limits the pixels of an
    original image. Returns, as far as they are `wanted`, `class_map` (N, 1), a PNG of class ids
    each (bytes as objects, see `postprocess`), and `labels` (N, classes), the class names (UTF-8
    bytes as objects). Raises ImageError for sizes or class ids that no network of this kind gives.
    """
    answers = {}
    if "labels" in wanted:
        names = np.array([label.encode() for label in labels], dtype=np.object_)
        answers["labels"] = np.tile(names, (len(outputs["class_map"]), 1))
    if "class_map" in wanted:
        answers["class_map"] = _encoded_class_maps(outputs, len(labels), max_pixels)
    return answers


def _encoded_class_maps(
    outputs: Mapping[str, NDArray[Any]], num_classes: int, max_pixels: int
) -> NDArray[np.object_]:
    """The `class_map` of `postprocess_batch`."""
    check_sizes(outputs["image_sizes"], outputs["original_sizes"], max_pixels)
    canvas = outputs["class_map"].shape[1:]
    if (outputs["image_sizes"] > canvas).any():
        raise ImageError(f"image_sizes {outputs['image_sizes'].tolist()} exceed {list(canvas)}")
    if int(outputs["class_map"].max()) >= num_classes:
        raise ImageError(f"class id {outputs['class_map'].max()} is not below {num_classes}")
    maps = zip(outputs["class_map"], outputs["image_sizes"], outputs["original_sizes"], strict=True)
    encoded = [encode_class_map(postprocess(*each), num_classes) for each in maps]
    return np.array(encoded, dtype=np.object_).reshape(-1, 1)
