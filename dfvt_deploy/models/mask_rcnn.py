"""Mask R-CNN on the DFvT backbone (mmdetection 2.x layout), with the published test-time rules."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..types import Nms, NmsOperator
from .backbone import BackboneConfig, DenseBackbone
from .canvas import require_multiples, zero_outside
from .fpn import FPN
from .roi_heads import PaddedDetections, RoIHead
from .rpn import RPNHead


@dataclass(frozen=True)
class Detections:
    """What was found on one image, best first; n is at most 100.

    `boxes` float32 (n, 4) xyxy in input pixels; `scores` float32 (n,); `labels` int64 (n,);
    `masks` float32 (n, 28, 28), probabilities on a grid over the box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


class MaskRCNN(nn.Module):
    """Mask R-CNN; state-dict keys are those of the published checkpoints.

    `nms` is used for the proposals and for the classes alike; T and S were published with hard NMS,
    B with soft.
    """

    def __init__(self, config: BackboneConfig, num_classes: int, nms: Nms) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.nms = nms
        self.backbone = DenseBackbone(config)
        self.neck = FPN(config.channels)
        self.rpn_head = RPNHead(nms)
        self.roi_head = RoIHead(num_classes, nms)

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> list[Detections]:
        """Normalised float32 (N, 3, H, W), sides multiples of 32, to one result per image.

        `image_sizes` int64 (N, 2) are valid heights and widths: what lies outside counts as zero
        padding and boxes end there. Without it the whole canvas is valid.
        """
        require_multiples(images)
        if image_sizes is None:
            image_sizes = torch.tensor(images.shape[2:], device=images.device)
            image_sizes = image_sizes.expand(len(images), 2)
        padded = self.detect(images, image_sizes)
        results = []
        for i, n in enumerate(padded.num_detections.flatten().tolist()):
            boxes, scores, labels, masks = (part[i, :n] for part in padded[:4])
            results.append(Detections(boxes, scores, labels, masks))
        return results

    def detect(
        self, images: Tensor, image_sizes: Tensor, nms_operator: NmsOperator = NmsOperator.LOOP
    ) -> PaddedDetections:
        """As `forward`, with outputs of a fixed size. `nms_operator` is of the exported graph."""
        features = self.neck(self.backbone(zero_outside(images, image_sizes)))
        proposals = self.rpn_head(features, image_sizes, nms_operator)
        return self.roi_head(features, proposals, image_sizes, nms_operator)
