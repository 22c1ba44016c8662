"""Mask R-CNN as it is exported: pixels in, outputs of a fixed size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..tasks.images import MEAN, STD
from ..types import InputKind
from .mask_rcnn import MaskRCNN
from .roi_heads import PaddedDetections

#: Outputs of the graph, in order.
OUTPUTS = PaddedDetections._fields


class DetectionGraph(nn.Module):
    """The network from the caller's pixels on, for export.

    `images` is as `input_kind` says, with sides that are multiples of 32; `image_sizes` int64
    (N, 2) is the valid height and width of each.
    """

    def __init__(self, model: MaskRCNN, input_kind: InputKind) -> None:
        super().__init__()
        self.model = model
        self.input_kind = input_kind
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(STD), persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> PaddedDetections:
        if self.input_kind is InputKind.UINT8:
            images = ((images.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        return self.model.detect(images, image_sizes)
