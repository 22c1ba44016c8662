"""The nine models by task and variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ..errors import BadInput
from ..types import Nms, Task, Variant
from .backbone import VARIANTS
from .classifier import Classifier
from .mask_rcnn import MaskRCNN
from .upernet import UPerNet

#: Class counts of the published models (background not counted).
PUBLISHED_CLASSES: Mapping[Task, int] = {
    Task.CLASSIFICATION: 1000,
    Task.DETECTION: 80,
    Task.SEGMENTATION: 150,
}

#: Most classes of a model: what a 16-bit class map can tell apart.
MAX_CLASSES = 65_536

#: Models of a backbone and a class count. A detector also takes its NMS.
BUILDERS: Mapping[Task, Callable[..., nn.Module]] = {
    Task.CLASSIFICATION: Classifier,
    Task.DETECTION: MaskRCNN,
    Task.SEGMENTATION: UPerNet,
}

#: NMS that each detector was published with.
PUBLISHED_NMS: Mapping[Variant, Nms] = {
    Variant.T: Nms.HARD,
    Variant.S: Nms.HARD,
    Variant.B: Nms.SOFT,
}


#: A detector's untrained last layers are milder, so that boxes keep an area and scores spread, and
#: lean towards background, so that not every slot fills.
_UNTRAINED_GAIN = {
    "rpn_head.rpn_cls.weight": 0.3,
    "rpn_head.rpn_reg.weight": 0.05,
    "roi_head.bbox_head.fc_reg.weight": 0.3,
}
_UNTRAINED_BACKGROUND = 10.0


def build_model(
    task: Task | str,
    variant: Variant | str,
    num_classes: int | None = None,
    nms: Nms | str | None = None,
) -> nn.Module:
    """A model in eval mode, its parameters not set to anything useful; see `load_checkpoint`.

    Args:
        num_classes: other than the published count, for a checkpoint of other classes.
        nms: other than the published kind, for a detector.

    Raises:
        BadInput: no such task, variant or NMS, a class count out of range, or NMS for another task
            than detection.
    """
    try:
        task, variant = Task(task), Variant(variant)
        nms = None if nms is None else Nms(nms)
    except ValueError as error:
        raise BadInput(
            f"{error}; tasks: {', '.join(Task)}; variants: {', '.join(Variant)}; "
            f"NMS: {', '.join(Nms)}"
        ) from None
    if nms is not None and task is not Task.DETECTION:
        raise BadInput(f"NMS is for detection; {task} has none")
    classes = PUBLISHED_CLASSES[task] if num_classes is None else num_classes
    if not 1 <= classes <= MAX_CLASSES:
        raise BadInput(f"num_classes {classes} is outside 1..{MAX_CLASSES}")
    own = (nms or PUBLISHED_NMS[variant],) if task is Task.DETECTION else ()
    return BUILDERS[task](VARIANTS[variant], classes, *own).eval()


def fill_untrained(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a deterministic random value that keeps activations in range.

    For trying the tools without a checkpoint; what such a model answers means nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                gain = (2**0.5 if parameter.ndim == 4 else 1.0) * _UNTRAINED_GAIN.get(name, 1.0)
                std = 0.02 if name.endswith("bias_table") else gain / fan_in**0.5
                parameter.normal_(0.0, std, generator=generator)
            else:
                mean = 0.0 if name.endswith("bias") else 1.0
                parameter.normal_(mean, 0.02, generator=generator)
            if name == "roi_head.bbox_head.fc_cls.bias":
                parameter[-1] += _UNTRAINED_BACKGROUND


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
