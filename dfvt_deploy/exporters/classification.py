"""How the classifier is exported and checked."""

from ..tasks.classification import INPUT_SIZE, RESIZED_SHORT_SIDE
from ..types import Task
from .recipe import ExportRecipe

_SIZE = (INPUT_SIZE, INPUT_SIZE)

RECIPE = ExportRecipe(
    task=Task.CLASSIFICATION,
    size=_SIZE,
    checked=((1, *_SIZE), (3, *_SIZE), (8, *_SIZE)),
    dynamic_outputs=lambda _: {"logits": {0: "batch"}},
    preprocessing={
        "resize": f"short side {RESIZED_SHORT_SIDE}, long side in proportion",
        "interpolation": "Pillow BICUBIC",
        "crop": _SIZE,
    },
    refused={
        "static": f"is not for classification, whose input is always {INPUT_SIZE}x{INPUT_SIZE}",
        "logits": "is for segmentation; classification always gives logits",
        "nms": "is for detection; omit it",
        "backbone_checkpoint": "is not for classification; use --checkpoint",
    },
)
