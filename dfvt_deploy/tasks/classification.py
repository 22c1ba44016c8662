"""ImageNet classification: the published test pipeline before the network, softmax after it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .images import Float32Array, UInt8Array, decoded_fast, original_size

INPUT_SIZE = 224
RESIZED_SHORT_SIDE = 256

#: Images that a TensorRT engine takes at once by default: least, usual, largest.
ENGINE_BATCHES = (1, 8, 64)
TOP_K = 5

#: Above this many pixels after the resize, only what the crop needs is resampled. A very long
#: image would otherwise need gigabytes: 1x8000 resizes to 256x2,048,000.
MAX_RESIZED_PIXELS = 2**24

#: Source pixels beyond the crop that bicubic reads, with some to spare (its support is 2 pixels
#: of the coarser grid).
_MARGIN = 4


def preprocess(image: Image.Image) -> UInt8Array:
    """RGB image of any size to the network's pixels, uint8 RGB (224, 224, 3). The short side
    becomes 256 and the long side int(256 * long / short), bicubic with antialiasing, then the
    centre is cropped. Equal to Pillow's own to the grey level. Of images longer than about 256:1,
    and of those decoded fast, only the centre is resampled: within one or two grey levels."""
    size = resized_size(*original_size(image))
    left, top = (round((side - INPUT_SIZE) / 2) for side in size)
    if size[0] * size[1] <= MAX_RESIZED_PIXELS and not decoded_fast(image):
        resized = image.resize(size, Image.Resampling.BICUBIC)
        crop = resized.crop((left, top, left + INPUT_SIZE, top + INPUT_SIZE))
    else:
        crop = _resized_crop(image, size, left, top)
    return np.asarray(crop)


def resized_size(width: int, height: int) -> tuple[int, int]:
    """Width and height after the resize."""
    if width <= height:
        return RESIZED_SHORT_SIDE, int(RESIZED_SHORT_SIDE * height / width)
    return int(RESIZED_SHORT_SIDE * width / height), RESIZED_SHORT_SIDE


def _resized_crop(image: Image.Image, size: tuple[int, int], left: int, top: int) -> Image.Image:
    """The crop of the resized image, without resizing the rest."""
    scale_x, scale_y = image.width / size[0], image.height / size[1]
    x0, x1 = left * scale_x, (left + INPUT_SIZE) * scale_x
    y0, y1 = top * scale_y, (top + INPUT_SIZE) * scale_y
    # Pillow holds the box in single precision: cut first, so that its coordinates are small.
    cut_x = max(0, int(x0 - _MARGIN * max(scale_x, 1)))
    cut_y = max(0, int(y0 - _MARGIN * max(scale_y, 1)))
    cut_right = min(image.width, int(x1 + _MARGIN * max(scale_x, 1)) + 1)
    cut_bottom = min(image.height, int(y1 + _MARGIN * max(scale_y, 1)) + 1)
    part = image.crop((cut_x, cut_y, cut_right, cut_bottom))
    box = (x0 - cut_x, y0 - cut_y, x1 - cut_x, y1 - cut_y)
    return part.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC, box=box)


def postprocess(logits: NDArray[Any], k: int = TOP_K) -> tuple[NDArray[np.int32], Float32Array]:
    """Logits (N, classes) to the best k class ids int32 (N, k) and their softmax float32 (N, k),
    best first; of equal scores the lower class id comes first. k is cut to the class count."""
    logits = logits.astype(np.float32)
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = exponent / exponent.sum(axis=1, keepdims=True)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return ids.astype(np.int32), np.take_along_axis(scores, ids, axis=1)


def preprocess_batch(images: Iterable[Image.Image]) -> dict[str, NDArray[Any]]:
    """RGB images, taken one by one, to `images`, uint8 RGB (N, 224, 224, 3)."""
    return {"images": np.stack([preprocess(image) for image in images])}


def postprocess_batch(
    outputs: Mapping[str, NDArray[Any]], labels: Sequence[str], k: int = TOP_K
) -> dict[str, NDArray[Any]]:
    """The network's `logits` (N, classes) to the served answers: `class_ids` int32, `scores`
    float32 and `labels` (UTF-8 bytes as objects), each (N, k); see `postprocess`."""
    ids, scores = postprocess(outputs["logits"], k)
    names = np.array([labels[each].encode() for each in ids.reshape(-1)], dtype=np.object_)
    return {"class_ids": ids, "scores": scores, "labels": names.reshape(ids.shape)}
