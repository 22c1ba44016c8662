"""The modules that are exported: a model with its input conversion in front."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..tasks.images import MEAN, STD
from ..types import InputKind


class ImageInput(nn.Module):
    """The first nodes of every exported graph: the caller's `images` to what the model takes."""

    def __init__(self, kind: InputKind) -> None:
        super().__init__()
        self.kind = kind
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 RGB (N, H, W, 3) or normalised float32 (N, 3, H, W), by kind, to the latter."""
        if self.kind is InputKind.FLOAT32:
            return images
        # The cast comes first: TensorRT has no transpose of uint8.
        return (images.float().permute(0, 3, 1, 2) - self.mean) / self.std


class ClassificationGraph(nn.Module):
    """`images` to `logits` float32 (N, classes)."""

    def __init__(self, model: nn.Module, kind: InputKind) -> None:
        super().__init__()
        self.images = ImageInput(kind)
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.images(images))
