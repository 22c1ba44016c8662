"""How UPerNet is exported and checked."""

from ..tasks.segmentation import LONG_SIDE, SHORT_SIDE
from ..types import Task
from .options import ExportOptions
from .recipe import DynamicAxes, ExportRecipe, dense_preprocessing


def _dynamic_outputs(options: ExportOptions) -> DynamicAxes:
    class_map, logits = {0: "batch"}, {0: "batch"}
    if options.static is None:
        class_map |= {1: "height", 2: "width"}
        logits |= {2: "logit_height", 3: "logit_width"}
    return {"class_map": class_map} | ({"logits": logits} if options.logits else {})


RECIPE = ExportRecipe(
    task=Task.SEGMENTATION,
    checked=((1, 64, 64), (2, 96, 224), (1, 256, 128)),
    dynamic_outputs=_dynamic_outputs,
    preprocessing=dense_preprocessing(LONG_SIDE, SHORT_SIDE),
    refused={"nms": "is for detection; omit it"},
)
