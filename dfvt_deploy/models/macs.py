"""Multiply-accumulates, counted on the meta device: nothing is computed, no memory is taken."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .fpn import CHANNELS
from .mask_rcnn import MaskRCNN
from .roi_heads import BOX_BINS, DETECTIONS, MASK_BINS
from .rpn import PROPOSALS


def count_macs(module: nn.Module, *inputs: Any) -> int:
    """Multiply-accumulates of convolutions and matrix products; norms and activations are not."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops() // 2


def count_mask_rcnn_macs(model: MaskRCNN, height: int, width: int) -> dict[str, int]:
    """Multiply-accumulates by part, for one image: 1000 proposals, 100 masks.

    The part names are those of the model. As in the published figures, the mask head is counted
    for all classes, though it computes the one that is wanted.
    """
    model = copy.deepcopy(model).to("meta")
    maps = model.backbone(_meta(1, 3, height, width))
    pyramid = model.neck(maps)
    boxes = _meta(PROPOSALS, CHANNELS, BOX_BINS, BOX_BINS)
    masks = _meta(DETECTIONS, CHANNELS, MASK_BINS, MASK_BINS)
    mask_head = model.roi_head.mask_head
    return {
        "backbone": count_macs(model.backbone, _meta(1, 3, height, width)),
        "neck": count_macs(model.neck, maps),
        "rpn_head": sum(
            count_macs(layer, x)
            for layer in (model.rpn_head.rpn_conv, model.rpn_head.rpn_cls, model.rpn_head.rpn_reg)
            for x in pyramid
        ),
        "roi_head.bbox_head": count_macs(model.roi_head.bbox_head, boxes),
        "roi_head.mask_head": count_macs(
            nn.Sequential(*mask_head.convs, mask_head.upsample, mask_head.conv_logits), masks
        ),
    }


def _meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")
