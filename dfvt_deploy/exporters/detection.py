"""How Mask R-CNN is exported and checked."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data import SAMPLES
from ..models.detection import PaddedDetections
from ..tasks.detection import LONG_SIDE, SHORT_SIDE
from ..types import Task
from .recipe import ExportRecipe, dense_preprocessing


def _photographs(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """The package's sample images at one size: in noise a detector finds nothing."""
    files = sorted(SAMPLES.glob("*.jpg"))
    images = []
    for i in range(batch):
        with Image.open(files[i % len(files)]) as image:
            images.append(np.asarray(image.convert("RGB").resize((width, height))))
    return np.stack(images)


RECIPE = ExportRecipe(
    task=Task.DETECTION,
    images=_photographs,
    checked=((1, 64, 96), (2, 160, 128), (1, 224, 320)),
    dynamic_outputs=lambda _: {name: {0: "batch"} for name in PaddedDetections._fields},
    preprocessing=dense_preprocessing(LONG_SIDE, SHORT_SIDE),
    loops=True,
    refused={"logits": "is for segmentation; detection gives boxes, scores and masks"},
)
