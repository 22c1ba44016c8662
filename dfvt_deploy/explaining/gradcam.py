"""Grad-CAM++ (Chattopadhay et al., WACV 2018) on the stages of a DFvT backbone in PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ..models.task_model import model_of
from ..pipeline import Pipeline
from ..tasks.images import normalise
from ..types import InputKind
from .heat_maps import over_image
from .task_explanation import Heat, Target, TaskExplanation


def grad_cam_pp(activations: Tensor, gradients: Tensor) -> NDArray[np.float64]:
    """The map (h, w) of activations A (C, h, w) and the gradients g of a logit by them.

    As published: alpha = g^2 / (2 g^2 + sum(A) g^3),
    w = sum(alpha relu(g)), map = relu(sum(w A)); but for exp(logit), a factor of all weights.
    """
    a, g = activations.double(), gradients.double()
    divisor = 2 * g**2 + a.sum(dim=(1, 2), keepdim=True) * g**3
    alpha = g**2 / torch.where(divisor != 0, divisor, 1)
    weights = (alpha * g.relu()).sum(dim=(1, 2), keepdim=True)
    return (weights * a).sum(dim=0).relu().numpy()


def grad_cam_maps(
    task: TaskExplanation,
    pipeline: Pipeline,
    model: nn.Module,
    layer: str,
    image: Image.Image,
    targets: Sequence[Target],
) -> list[Heat]:
    """The Grad-CAM++ map of each target for a model in eval mode and a layer:
    `stage<1 to 4>.context`, the tokens of the transformer blocks, or `stage<1 to 4>.spatial`, the
    convolution features beside them."""
    inputs = pipeline.prepare(image)
    images = inputs["images"]
    if pipeline.manifest.input_kind is InputKind.UINT8:
        images = normalise(images)
    valid = inputs["image_sizes"][0] / images.shape[2:] if "image_sizes" in inputs else (1.0, 1.0)
    alone = model_of(pipeline.manifest.task).is_backbone
    backbone = model if alone else model.get_submodule("backbone")
    number, path = layer.removeprefix("stage").split(".")
    spatial = path == "spatial"
    place = "convlayers.{}.conv1x1_1" if spatial else "layers.{}"
    module = backbone.get_submodule(place.format(int(number) - 1))
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.append(output.requires_grad_())  # The graph begins here: parameters need none.

    model.requires_grad_(False)
    maps = []
    with module.register_forward_hook(keep):
        for target in targets:
            logit = task.logit(model, torch.from_numpy(images), inputs, target)
            (gradient,) = torch.autograd.grad(logit, outputs[-1])
            pair = (t.detach()[0] for t in (outputs[-1], gradient))
            heat = grad_cam_pp(*(t if spatial else t.permute(2, 0, 1) for t in pair))
            maps.append(over_image(heat, image, task.seen(*image.size), valid))
    return maps
