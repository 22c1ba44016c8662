"""The detection graph that is exported: input conversion, Mask R-CNN, outputs of a fixed size."""

from __future__ import annotations

from torch import Tensor, nn

from ..types import InputKind, Nms, NmsOperator
from .graphs import ImageInput
from .mask_rcnn import MaskRCNN
from .roi_heads import PaddedDetections


class DetectionGraph(nn.Module):
    """`images` and `image_sizes` int64 (N, 2) to the fields of `PaddedDetections`."""

    def __init__(
        self, model: MaskRCNN, kind: InputKind, nms_operator: NmsOperator = NmsOperator.LOOP
    ) -> None:
        if model.nms is Nms.SOFT and nms_operator is NmsOperator.ONNX:
            raise ValueError("ONNX has no operator for soft NMS; use the loop")
        super().__init__()
        self.images = ImageInput(kind)
        self.model = model
        self.nms_operator = nms_operator

    def forward(self, images: Tensor, image_sizes: Tensor) -> PaddedDetections:
        return self.model.detect(self.images(images), image_sizes, self.nms_operator)
