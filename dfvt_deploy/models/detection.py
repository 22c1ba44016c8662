"""Mask R-CNN on the DFvT backbone (mmdetection 2.x layout), with the published test-time rules,
and the detection graph that is exported."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..types import InputKind, Nms, Variant
from .backbone import DenseBackbone
from .fpn import CHANNELS, FPN
from .inputs import ImageInput, require_multiples, zero_outside
from .roi_heads import BOX_BINS, DETECTIONS, MASK_BINS, PaddedDetections, RoIHead
from .rpn import PROPOSALS, RPNHead
from .task_model import TaskModel
from .variants import BackboneConfig


@dataclass(frozen=True)
class Detections:
    """The detections of one image, best first, at most 100: boxes float32 (n, 4), xyxy in input
    pixels, scores float32 (n,), labels int64 (n,), masks float32 (n, 28, 28), probabilities over
    the box."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


class MaskRCNN(nn.Module):
    """Mask R-CNN; its state-dict keys are those of the published checkpoints. The kind of NMS is
    that of the proposals and of the classes alike: T and S were published with hard, B with soft
    NMS."""

    def __init__(self, config: BackboneConfig, num_classes: int, nms: Nms) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.nms = nms
        self.backbone = DenseBackbone(config)
        self.neck = FPN(config.channels)
        self.rpn_head = RPNHead(nms)
        self.roi_head = RoIHead(num_classes, nms)

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> list[Detections]:
        """Detect objects in normalised images, float32 (N, 3, H, W), sides multiples of 32.

        image_sizes: int64 (N, 2), valid heights and widths. The rest of the canvas counts as zero
            padding, and boxes end at the valid size. All of the canvas is valid without.
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

    def detect(self, images: Tensor, image_sizes: Tensor) -> PaddedDetections:
        """Detect as `forward` does, with results of a fixed size, as exported graphs need them."""
        features = self.neck(self.backbone(zero_outside(images, image_sizes)))
        proposals = self.rpn_head(features, image_sizes)
        return self.roi_head(features, proposals, image_sizes)


class DetectionGraph(nn.Module):
    """What is exported: `images` and `image_sizes` to the fields of `PaddedDetections`."""

    def __init__(self, model: MaskRCNN, kind: InputKind) -> None:
        super().__init__()
        self.images = ImageInput(kind)
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> PaddedDetections:
        return self.model.detect(self.images(images), image_sizes)


def _outputs(model: MaskRCNN, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
    return model.detect(images, image_sizes)._asdict()


def _counted_parts(model: MaskRCNN, images: Tensor) -> dict[str, list[tuple[nn.Module, Any]]]:
    """The parts of a detector, with 1000 proposals and 100 masks."""
    maps = model.backbone(images)
    rpn, mask_head = model.rpn_head, model.roi_head.mask_head
    layers = (rpn.rpn_conv, rpn.rpn_cls, rpn.rpn_reg)
    # The paper counts the masks of all classes, although one class of each is computed.
    every_mask = nn.Sequential(*mask_head.convs, mask_head.upsample, mask_head.conv_logits)
    boxes = torch.empty(PROPOSALS, CHANNELS, BOX_BINS, BOX_BINS, device="meta")
    masks = torch.empty(DETECTIONS, CHANNELS, MASK_BINS, MASK_BINS, device="meta")
    return {
        "backbone": [(model.backbone, images)],
        "neck": [(model.neck, maps)],
        "rpn_head": [(layer, x) for layer in layers for x in model.neck(maps)],
        "roi_head.bbox_head": [(model.roi_head.bbox_head, boxes)],
        "roi_head.mask_head": [(every_mask, masks)],
    }


MODEL = TaskModel(
    network=MaskRCNN,
    num_classes=80,
    head_weight="roi_head.bbox_head.fc_cls.weight",
    background_rows=1,
    graph=lambda model, kind, _: DetectionGraph(model, kind),
    outputs=_outputs,
    counted_size=(800, 1280),
    counted_parts=_counted_parts,
    accuracy=(("ap_box", "box AP"), ("ap_mask", "mask AP")),
    published_nms={Variant.T: Nms.HARD, Variant.S: Nms.HARD, Variant.B: Nms.SOFT},
    # Milder last layers keep an area in the boxes and spread the scores, and leaning towards the
    # background keeps some slots empty.
    untrained_gains={
        "rpn_head.rpn_cls.weight": 0.3,
        "rpn_head.rpn_reg.weight": 0.05,
        "roi_head.bbox_head.fc_reg.weight": 0.3,
    },
    untrained_shifts={"roi_head.bbox_head.fc_cls.bias": 10.0},
)
