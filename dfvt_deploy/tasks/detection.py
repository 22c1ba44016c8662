"""COCO instance segmentation: the published test pipeline around Mask R-CNN."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import dense, rle
from .dense import IntArray
from .images import DEFAULT_LIMITS, Float32Array, ImageError

LONG_SIDE = 1333
SHORT_SIDE = 800
MASK_THRESHOLD = 0.5

#: Preprocessing of one image and of a request's, into 1333x800 (either way round); see `dense`.
preprocess = partial(dense.resize_and_pad, long_side=LONG_SIDE, short_side=SHORT_SIDE)
preprocess_batch = partial(dense.preprocess_batch, long_side=LONG_SIDE, short_side=SHORT_SIDE)
resized_size = partial(dense.resized_size, long_side=LONG_SIDE, short_side=SHORT_SIDE)

#: Images that a TensorRT engine takes at once by default: least, usual, largest.
ENGINE_BATCHES = (1, 1, 4)

#: Height and width that an engine is fastest at by default: the canvas of a 4:3 photograph.
USUAL_SIZE = (800, 1088)

#: Rows of the network's and the server's answer for each image.
ROWS = 100

#: Columns of a pasted mask that are computed at a time.
_CHUNK = 256


@dataclass(frozen=True)
class DetectionResult:
    """What was found on one image, best first, in the image as it was sent: `boxes` float32 (n, 4)
    xyxy in pixels; `scores` float32 (n,); `labels` int32 (n,) class ids; `masks` n COCO run-length
    encodings at the image's size."""

    boxes: Float32Array
    scores: Float32Array
    labels: NDArray[np.int32]
    masks: tuple[rle.Rle, ...]


def postprocess(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    masks: NDArray[Any],
    image_size: IntArray,
    original_size: IntArray,
) -> DetectionResult:
    """The network's answer on one image to detections in the image as it was sent: boxes (k, 4)
    xyxy in pixels of the network's input, scores (k,), labels integers (k,), rows below 0 dropped
    as unused, and masks (k, 28, 28), probabilities on a grid over each box. The sizes are height
    and width of the image within the network's input, and as it was sent."""
    used = labels >= 0
    scale = (image_size / original_size).astype(np.float32)[[1, 0, 1, 0]]
    rescaled = boxes[used].astype(np.float32) / scale
    size = int(original_size[0]), int(original_size[1])
    pasted = zip(masks[used], rescaled, strict=True)
    return DetectionResult(
        rescaled,
        scores[used].astype(np.float32),
        labels[used].astype(np.int32),
        tuple(paste_mask(mask, box, size) for mask, box in pasted),
    )


def postprocess_batch(
    outputs: Mapping[str, NDArray[Any]],
    labels: Sequence[str],
    max_pixels: int = DEFAULT_LIMITS.max_pixels,
) -> dict[str, NDArray[Any]]:
    """The network's outputs and the sizes that preprocessing gave to the served answers.

    outputs: `boxes`, `scores`, `labels` and `masks` of the network, as `postprocess` takes them
        with a batch dimension before, `image_sizes` and `original_sizes` int64 (N, 2).
    labels, max_pixels: class names by class id, and the limit on an original image's pixels.

    Returns, with the k rows that the network gives for each image, `boxes` float32 (N, k, 4) xyxy
    in pixels of the sent image, `scores` float32 (N, k), `class_ids` int32 (N, k), `labels` and
    `masks` (N, k) UTF-8 bytes as objects, a mask being the JSON of its run-length encoding, and
    `num_detections` int32 (N, 1). Unused rows are zeros, class id -1 and empty strings. Raises
    ImageError for sizes or class ids that no network of this kind gives.
    """
    dense.check_sizes(outputs["image_sizes"], outputs["original_sizes"], max_pixels)
    if int(outputs["labels"].max()) >= len(labels):
        raise ImageError(f"class id {outputs['labels'].max()} is not below {len(labels)}")
    count, rows = outputs["scores"].shape
    answer: dict[str, NDArray[Any]] = {
        "boxes": np.zeros((count, rows, 4), np.float32),
        "scores": np.zeros((count, rows), np.float32),
        "class_ids": np.full((count, rows), -1, np.int32),
        "labels": np.full((count, rows), b"", np.object_),
        "masks": np.full((count, rows), b"", np.object_),
        "num_detections": np.zeros((count, 1), np.int32),
    }
    names = ("boxes", "scores", "labels", "masks", "image_sizes", "original_sizes")
    for i, one in enumerate(zip(*(outputs[name] for name in names), strict=True)):
        found = postprocess(*one)
        n = len(found.scores)
        answer["boxes"][i, :n] = found.boxes
        answer["scores"][i, :n] = found.scores
        answer["class_ids"][i, :n] = found.labels
        answer["labels"][i, :n] = [labels[label].encode() for label in found.labels]
        answer["masks"][i, :n] = [json.dumps(mask).encode() for mask in found.masks]
        answer["num_detections"][i] = n
    return answer


def result_from_answers(answer: Mapping[str, NDArray[Any]]) -> DetectionResult:
    """The served answers for one image, without batch dimension; ValueError for a broken mask."""
    n = int(answer["num_detections"].item())
    return DetectionResult(
        answer["boxes"][:n],
        answer["scores"][:n],
        answer["class_ids"][:n],
        tuple(json.loads(mask) for mask in answer["masks"][:n]),
    )


def paste_mask(mask: NDArray[Any], box: Float32Array, size: tuple[int, int]) -> rle.Rle:
    """Resize a mask's probabilities (28, 28) to its box, xyxy in pixels, threshold, and encode at
    `size`, height and width of the image. It covers pixels up to one beyond the box, as published.
    """
    mask = mask.astype(np.float32)
    left, columns = _interpolation(box[0], box[2], size[1], mask.shape[1])
    top, rows = _interpolation(box[1], box[3], size[0], mask.shape[0])
    by_column = rows @ mask  # (h, 28)
    part = np.empty((len(columns), len(rows)), np.bool_)
    for i in range(0, len(columns), _CHUNK):
        np.greater_equal(
            columns[i : i + _CHUNK] @ by_column.T, MASK_THRESHOLD, out=part[i : i + _CHUNK]
        )
    return rle.encode(part.T, top, left, size)


def _interpolation(
    start: np.float32, end: np.float32, length: int, cells: int
) -> tuple[int, Float32Array]:
    """First pixel of a box along an axis, and each pixel's weights of the mask's cells, (n, cells):
    bilinear between the cells' centres, zero outside them."""
    first = max(0, int(np.floor(start)) - 1)
    last = min(length, int(np.ceil(end)) + 1)
    centres = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = (centres - start) / (end - start) * 2 - 1
    relative[np.isinf(relative)] = 0  # an empty box shows the mask's centre, as published
    at = ((relative + 1) * cells - 1) / 2
    weights = 1 - np.abs(at[:, None] - np.arange(cells, dtype=np.float32))
    return first, np.maximum(weights, 0, dtype=np.float32)
