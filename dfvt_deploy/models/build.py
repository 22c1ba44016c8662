"""The nine models by task and variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ..errors import BadInput
from ..types import Task, Variant
from .backbone import VARIANTS, BackboneConfig
from .classifier import Classifier
from .upernet import UPerNet

#: Class counts of the published models (background not counted).
PUBLISHED_CLASSES: Mapping[Task, int] = {
    Task.CLASSIFICATION: 1000,
    Task.DETECTION: 80,
    Task.SEGMENTATION: 150,
}

#: Tasks whose models can be built.
BUILDERS: Mapping[Task, Callable[[BackboneConfig, int], nn.Module]] = {
    Task.CLASSIFICATION: Classifier,
    Task.SEGMENTATION: UPerNet,
}


def build_model(
    task: Task | str, variant: Variant | str, num_classes: int | None = None
) -> nn.Module:
    """A model in eval mode, its parameters not set to anything useful; see `load_checkpoint`.

    Args:
        num_classes: other than the published count, for a checkpoint of other classes.

    Raises:
        BadInput: no such task or variant, or a class count below 1.
    """
    try:
        task, variant = Task(task), Variant(variant)
    except ValueError as error:
        raise BadInput(
            f"{error}; tasks: {', '.join(Task)}; variants: {', '.join(Variant)}"
        ) from None
    if task not in BUILDERS:
        raise BadInput(f"{task} models cannot be built yet; tasks: {', '.join(BUILDERS)}")
    classes = PUBLISHED_CLASSES[task] if num_classes is None else num_classes
    if classes < 1:
        raise BadInput(f"num_classes {classes} is below 1")
    return BUILDERS[task](VARIANTS[variant], classes).eval()


def fill_untrained(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a deterministic random value that keeps activations in range.

    For trying the tools without a checkpoint; what such a model answers means nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                gain = 2**0.5 if parameter.ndim == 4 else 1.0
                std = 0.02 if name.endswith("bias_table") else gain / fan_in**0.5
                parameter.normal_(0.0, std, generator=generator)
            else:
                mean = 0.0 if name.endswith("bias") else 1.0
                parameter.normal_(mean, 0.02, generator=generator)


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-accumulates of convolutions, linear layers and attention for these inputs.

    Run it on the meta device to count without computing. Norms and activations do not count.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return int(counter.get_total_flops()) // 2
