"""Arithmetic of boxes (..., 4): x1, y1, x2, y2 in pixels, float32.

The order of operations is the published one, so that rounding is the same.
"""

import math

import torch
from torch import Tensor

#: x1, y1, x2 and y2 of many boxes, one tensor each.
Corners = tuple[Tensor, Tensor, Tensor, Tensor]

#: The largest change of the logarithm of a width or height in one decoding.
MAX_LOG_RATIO = abs(math.log(16 / 1000))


def decode(anchors: Tensor, deltas: Tensor) -> Tensor:
    """Move and scale anchors (..., 4) by deltas (..., 4): dx, dy, log dw, log dh."""
    x1, y1, x2, y2 = anchors.unbind(-1)
    dx, dy, dw, dh = deltas.unbind(-1)
    width, height = x2 - x1, y2 - y1
    x = (x1 + x2) * 0.5 + width * dx
    y = (y1 + y2) * 0.5 + height * dy
    half_width = width * dw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * 0.5
    half_height = height * dh.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * 0.5
    return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), -1)


def clip(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Clip boxes (N, ..., 4) to images of `image_sizes` (N, 2), height first."""
    limits = image_sizes.flip(1).repeat(1, 2).to(boxes.dtype)
    limits = limits.reshape(-1, *(1,) * (boxes.ndim - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


def iou(a: Corners, b: Corners) -> Tensor:
    """Intersection over union of boxes that broadcast with each other. It is NaN for two empty
    boxes, which compares false with every threshold, as in the published NMS."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    area_a, area_b = (ax2 - ax1) * (ay2 - ay1), (bx2 - bx1) * (by2 - by1)
    return intersection / (area_a + area_b - intersection)
