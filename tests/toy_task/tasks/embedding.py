"""A toy task: a photograph to a vector of length 1."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

INPUT_SIZE = 64

#: Images that a TensorRT engine takes at once by default: least, usual, largest.
ENGINE_BATCHES = (1, 4, 16)


def resized_size(width: int, height: int) -> tuple[int, int]:
    """Width and height after the resize."""
    return INPUT_SIZE, INPUT_SIZE


def preprocess_batch(images: Iterable[Image.Image]) -> dict[str, NDArray[Any]]:
    """RGB images to the network's `images`, uint8 RGB (N, 64, 64, 3)."""
    resized = [np.asarray(image.resize((INPUT_SIZE, INPUT_SIZE))) for image in images]
    return {"images": np.stack(resized)}


def postprocess_batch(
    outputs: Mapping[str, NDArray[Any]], labels: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """The network's `embedding` float32 (N, dimensions) is the served answer."""
    return {"embedding": outputs["embedding"]}
