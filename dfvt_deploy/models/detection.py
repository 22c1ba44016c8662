"""Mask R-CNN on the DFvT backbone (mmdetection 2.x layout), with the published test-time rules:
its second stage (classes, boxes and masks of proposals), and the graph that is exported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tasks.detection import ROWS
from ..types import Nms, Variant
from . import box_ops
from .backbone import BackboneConfig, DenseBackbone
from .roi_align import pyramid_roi_align
from .rpn import CHANNELS, FPN, PROPOSALS, STRIDES, RPNHead, conv_module
from .task_model import TaskModel, require_multiples, zero_outside

DETECTIONS = ROWS
SCORE_THRESHOLD = 0.05
IOU_THRESHOLD = 0.5

BOX_BINS = 7
MASK_BINS = 14
MASK_SIZE = 2 * MASK_BINS
HIDDEN = 1024

DELTA_STDS = (0.1, 0.1, 0.2, 0.2)


class PaddedDetections(NamedTuple):
    """Detections of a batch, best first: boxes float32 (N, 100, 4), xyxy in input pixels, scores
    float32 (N, 100), labels int64 (N, 100), masks float32 (N, 100, 28, 28), probabilities on a grid
    over the box, and num_detections int64 (N, 1). Unused rows hold label -1 and zeros."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor
    num_detections: Tensor


class BoxHead(nn.Module):
    """Class and box of each proposal, from its features."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(HIDDEN, num_classes + 1)
        self.fc_reg = nn.Linear(HIDDEN, 4 * num_classes)
        self.shared_fcs = nn.ModuleList(
            (nn.Linear(CHANNELS * BOX_BINS**2, HIDDEN), nn.Linear(HIDDEN, HIDDEN))
        )

    def forward(self, aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (R, 256, 7, 7) to logits (R, classes + 1) and deltas (R, 4 classes)."""
        x = aligned.flatten(1)
        for fc in self.shared_fcs:
            x = F.relu(fc(x))
        return self.fc_cls(x), self.fc_reg(x)


class MaskHead(nn.Module):
    """The mask of each detection, from its features."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv_module(CHANNELS, CHANNELS, 3) for _ in range(4))
        self.upsample = nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, 2)
        self.conv_logits = nn.Conv2d(CHANNELS, num_classes, 1)

    def forward(self, aligned: Tensor, labels: Tensor) -> Tensor:
        """Map features (R, 256, 14, 14) to the mask probabilities (R, 28, 28) of labels (R,)."""
        x = aligned
        for conv in self.convs:
            x = F.relu(conv(x))
        # A transposed convolution of kernel and stride 2 is a pointwise one to the four pixels of
        # each cell, and the last convolution is needed for one class of each only.
        phases = self.upsample.weight.permute(1, 2, 3, 0).reshape(-1, CHANNELS, 1, 1)
        bias = self.upsample.get_parameter("bias").repeat_interleave(4)
        x = F.relu(F.conv2d(x, phases, bias)).reshape(-1, CHANNELS, MASK_SIZE**2)
        weight = self.conv_logits.weight[labels].reshape(-1, 1, CHANNELS)
        logits = weight @ x + self.conv_logits.get_parameter("bias")[labels][:, None, None]
        logits = F.pixel_shuffle(logits.reshape(-1, 4, MASK_BINS, MASK_BINS), 2)
        return logits.sigmoid().squeeze(1)


class RoIHead(nn.Module):
    """The heads of boxes and masks, and the selection of detections between them."""

    def __init__(self, num_classes: int, kind: Nms) -> None:
        super().__init__()
        self.num_classes, self.kind = num_classes, kind
        self.bbox_head = BoxHead(num_classes)
        self.mask_head = MaskHead(num_classes)
        self.stds = nn.Buffer(torch.tensor(DELTA_STDS), persistent=False)

    def forward(
        self, features: Sequence[Tensor], proposals: Tensor, image_sizes: Tensor
    ) -> PaddedDetections:
        """Detect objects in proposals (N, K, 4) in input pixels, of images of sizes (N, 2)."""
        features, strides = features[:4], STRIDES[:4]
        aligned = pyramid_roi_align(features, strides, proposals, BOX_BINS)
        logits, deltas = self.bbox_head(aligned)
        boxes, scores, labels = self.select(proposals, logits, deltas, image_sizes)
        aligned = pyramid_roi_align(features, strides, boxes, MASK_BINS)
        masks = self.mask_head(aligned, labels.flatten())
        masks = masks.reshape(-1, DETECTIONS, MASK_SIZE, MASK_SIZE)
        used = scores > 0
        labels = torch.where(used, labels, -1)
        masks = torch.where(used[..., None, None], masks, 0)
        return PaddedDetections(boxes, scores, labels, masks, used.sum(1, keepdim=True))

    def select(
        self, proposals: Tensor, logits: Tensor, deltas: Tensor, image_sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Select the best 100 detections among the box head's outputs for proposals (N, K, 4):
        boxes (N, 100, 4) in input pixels, scores and labels (N, 100); unused rows are zeros."""
        count, classes = proposals.shape[1], self.num_classes
        scores = logits.softmax(1)[:, :-1].reshape(-1, count, classes).transpose(1, 2)
        deltas = deltas.reshape(-1, count, classes, 4) * self.stds
        boxes = box_ops.decode(proposals[:, None], deltas.transpose(1, 2))
        boxes = box_ops.clip(boxes, image_sizes)  # (N, classes, K, 4)
        # Boxes without area, which padding and clipping leave, show nothing and share one score: by
        # its rounding they would fill every row. IoU is 0 with any object, so no AP is lost.
        left, top, right, bottom = boxes.unbind(-1)
        real = (scores > SCORE_THRESHOLD) & (right > left) & (bottom > top)
        scores = torch.where(real, scores, box_ops.REMOVED)
        candidates = torch.where(real[..., None], boxes, 0)
        shifted = box_ops.shift_groups(candidates, dim=1)
        label, slot, scores = box_ops.select_best(
            shifted, scores, self.kind, IOU_THRESHOLD, DETECTIONS
        )
        best = label * count + slot
        # The outputs of a loop have no shape in the exported graph until they are given one.
        scores, label = scores.reshape(-1, DETECTIONS), label.reshape(-1, DETECTIONS)
        best = best.reshape(-1, DETECTIONS)
        used = scores >= box_ops.MIN_SOFT_SCORE
        boxes = boxes.flatten(1, 2).gather(1, best[:, :, None].expand(-1, -1, 4))
        boxes = torch.where(used[..., None], boxes, 0)
        return boxes, torch.where(used, scores, 0), torch.where(used, label, 0)


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
    """Mask R-CNN; its state-dict keys are those of the published checkpoints. Proposals and classes
    have the same kind of NMS: T and S were published with hard, B with soft NMS."""

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
        image_sizes, int64 (N, 2), are valid heights and widths: the rest of the canvas counts as
        zero padding, and boxes end there. All of the canvas is valid without."""
        require_multiples(images)
        if image_sizes is None:
            image_sizes = torch.tensor(images.shape[2:], device=images.device)
            image_sizes = image_sizes.expand(len(images), 2)
        padded = self.detect(images, image_sizes)
        counts = enumerate(padded.num_detections.flatten().tolist())
        return [Detections(*(part[i, :n] for part in padded[:4])) for i, n in counts]

    def detect(self, images: Tensor, image_sizes: Tensor) -> PaddedDetections:
        """Detect as `forward` does, with results of a fixed size, as exported graphs need them."""
        features = self.neck(self.backbone(zero_outside(images, image_sizes)))
        proposals = self.rpn_head(features, image_sizes)
        return self.roi_head(features, proposals, image_sizes)


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
    exported=MaskRCNN.detect,
    outputs=lambda model, *inputs: model.detect(*inputs)._asdict(),
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
