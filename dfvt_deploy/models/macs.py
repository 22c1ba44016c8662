"""Multiply-accumulates, counted on the meta device: nothing is computed, no memory is taken."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .fpn import CHANNELS
from .mask_rcnn import MaskRCNN
from .roi_heads import BOX_BINS, DETECTIONS, MASK_BINS
from .rpn import PROPOSALS


def count_macs(model: nn.Module, height: int, width: int) -> dict[str, int]:
    """Multiply-accumulates of a model on the meta device for one image, by part.

    Those of convolutions, linear layers and attention; norms and activations do not count. A
    detector's parts are named after its modules, with 1000 proposals and 100 masks; any other
    model is one part, `model`.
    """
    images = _meta(1, 3, height, width)
    if isinstance(model, MaskRCNN):
        return _count_mask_rcnn(model, images)
    return {"model": _count(model, images)}


def _count_mask_rcnn(model: MaskRCNN, images: Tensor) -> dict[str, int]:
    maps = model.backbone(images)
    rpn, mask_head = model.rpn_head, model.roi_head.mask_head
    return {
        "backbone": _count(model.backbone, images),
        "neck": _count(model.neck, maps),
        "rpn_head": sum(
            _count(layer, x)
            for layer in (rpn.rpn_conv, rpn.rpn_cls, rpn.rpn_reg)
            for x in model.neck(maps)
        ),
        "roi_head.bbox_head": _count(
            model.roi_head.bbox_head, _meta(PROPOSALS, CHANNELS, BOX_BINS, BOX_BINS)
        ),
        # As in the published figures for all classes, though the wanted one alone is computed.
        "roi_head.mask_head": _count(
            nn.Sequential(*mask_head.convs, mask_head.upsample, mask_head.conv_logits),
            _meta(DETECTIONS, CHANNELS, MASK_BINS, MASK_BINS),
        ),
    }


def _count(module: nn.Module, inputs: object) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(inputs)
    return int(counter.get_total_flops()) // 2


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
