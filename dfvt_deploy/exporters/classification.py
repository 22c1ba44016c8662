"""How the classifier is exported and checked."""

from ..manifest import Preprocessing
from ..tasks.classification import INPUT_SIZE, RESIZED_SHORT_SIDE
from ..tasks.images import MEAN, STD
from ..types import InputKind, Task
from .options import ExportOptions
from .recipe import ExportRecipe

_SIZE = (INPUT_SIZE, INPUT_SIZE)


def _preprocessing(options: ExportOptions) -> Preprocessing:
    return Preprocessing(
        resize=f"short side {RESIZED_SHORT_SIDE}, long side in proportion",
        interpolation="Pillow BICUBIC",
        crop=_SIZE,
        mean=MEAN,
        std=STD,
        normalised_in_graph=options.input_kind is InputKind.UINT8,
    )


RECIPE = ExportRecipe(
    task=Task.CLASSIFICATION,
    size=_SIZE,
    checked=((1, *_SIZE), (3, *_SIZE), (8, *_SIZE)),
    dynamic_outputs=lambda _: {"logits": {0: "batch"}},
    preprocessing=_preprocessing,
    refused={
        "static": f"is not for classification, whose input is always {INPUT_SIZE}x{INPUT_SIZE}",
        "logits": "is for segmentation; classification always gives logits",
        "nms": "is for detection; omit it",
        "backbone_checkpoint": "is not for classification; use --checkpoint",
    },
)
