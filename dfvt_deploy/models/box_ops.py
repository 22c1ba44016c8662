"""Arithmetic and suppression (NMS) of boxes (..., 4): x1, y1, x2, y2 in pixels, float32.

The order of operations is the published one, so that rounding is the same. Shapes are fixed, and
one code serves eager PyTorch and the exported graph: NMS is a loop of a constant number of steps,
exported as the ONNX operator Loop. While exporting, TorchScript compiles the loops, so they are
plain functions of tensors.

Shapes: N images, G groups (pyramid levels or classes), K boxes in each group. Boxes of different
groups must not overlap, see `shift_groups`.
"""

import math

import torch
from torch import Tensor

from ..types import Nms

#: The score of a slot that is empty, taken or suppressed.
REMOVED = -1.0

#: Soft-NMS drops a box whose score has decayed below this.
MIN_SOFT_SCORE = 1e-3

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


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices (N, k) of the best scores (N, M), of equals the lower index first."""
    if torch.onnx.is_in_onnx_export():
        return scores.topk(k, dim=1)  # The ONNX operator keeps that order; torch.topk need not.
    values, indices = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], indices[:, :k]


def shift_groups(boxes: Tensor, dim: int) -> Tensor:
    """Move the boxes (N, ..., 4), not negative, of each group along `dim` away from all others, as
    the published code does, whose result has this rounding too; zeros are empty slots."""
    spacing = boxes.flatten(1).amax(1) + 1
    groups = torch.arange(boxes.shape[dim], device=boxes.device, dtype=boxes.dtype)
    groups = groups.reshape(-1, *(1,) * (boxes.ndim - 1 - dim))
    return boxes + groups * spacing.reshape(-1, *(1,) * (boxes.ndim - 1))


def greedy_keep(boxes: Tensor, real: Tensor, threshold: float) -> Tensor:
    """Greedy NMS within each group of boxes (N, G, K, 4) that are sorted by score; `real`, bool (N,
    G, K), is false for empty slots. Returns bool (N, G, K): real boxes whose IoU with every better
    kept box is at most `threshold`."""
    rank = torch.arange(boxes.shape[2], device=boxes.device)
    # Row i says which boxes box i suppresses; rows are the first axis so that the loop reads them.
    rows = boxes.permute(2, 0, 1, 3)[:, :, :, None]
    overlaps = iou(_corners(rows), _corners(boxes)) > threshold
    suppressed = overlaps & (rank > rank[:, None, None, None])
    return _suppress_in_turn(real, suppressed)


def _corners(boxes: Tensor) -> Corners:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return x1, y1, x2, y2


@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _suppress_in_turn(keep: Tensor, suppressed: Tensor) -> Tensor:
    """Clear in `keep` (N, G, K), best first, what each kept box suppresses: bool (K, N, G, K)."""
    for i in range(suppressed.shape[0]):
        # TensorRT-RTX cannot build the loop with a slice in place of the select.
        keep = keep & ~(suppressed[i] & keep.select(2, i).unsqueeze(2))
    return keep


def select_best(
    boxes: Tensor, scores: Tensor, kind: Nms, threshold: float, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the best box of all groups `count` times, suppressing boxes of its group each time. No
    box scores more than one taken before it, so the result is exactly the first `count` of a
    complete NMS.

    boxes: (N, G, K, 4), shifted.
    scores: (N, G, K), `REMOVED` in empty slots. Of equals, the lower group comes first, then the
        lower slot.
    kind: hard removes boxes whose IoU is above `threshold`; soft (linear) multiplies the scores of
        boxes whose IoU is at least that by 1 - IoU.

    Returns groups and slots int64 (N, count), and scores (N, count), which are negative once no box
    is left.
    """
    corners = _corners(boxes.flatten(0, 1))
    return _select_in_turn(corners, scores, kind is Nms.SOFT, threshold, REMOVED, count)


@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _select_in_turn(
    corners: Corners, scores: Tensor, soft: bool, threshold: float, removed: float, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The loop of `select_best`, with corners (N * G, K)."""
    batch, groups, slots = scores.shape
    device = scores.device
    slot_ids = torch.arange(slots, device=device)
    group_ids = torch.arange(groups, device=device)[:, None]
    first_group = groups * torch.arange(batch, device=device)
    steps = torch.arange(count, device=device)
    taken_groups = torch.zeros([batch, count], dtype=torch.int64, device=device)
    taken_slots = torch.zeros([batch, count], dtype=torch.int64, device=device)
    taken_scores = torch.zeros([batch, count], dtype=scores.dtype, device=device)
    for i in range(count):
        score, group = scores.amax(2).max(1)
        flat_group = first_group + group
        old = scores.flatten(0, 1).index_select(0, flat_group)
        slot = old.argmax(1, keepdim=True)
        x1 = corners[0].index_select(0, flat_group)
        y1 = corners[1].index_select(0, flat_group)
        x2 = corners[2].index_select(0, flat_group)
        y2 = corners[3].index_select(0, flat_group)
        best = (x1.gather(1, slot), y1.gather(1, slot), x2.gather(1, slot), y2.gather(1, slot))
        overlap = iou((x1, y1, x2, y2), best)
        if soft:
            new = torch.where(overlap >= threshold, old * (1 - overlap), old)
        else:
            new = torch.where(overlap > threshold, removed, old)
        new = torch.where(slot_ids == slot, removed, new)
        scores = torch.where(group_ids == group[:, None, None], new[:, None], scores)
        now = steps == i
        taken_groups = torch.where(now, group[:, None], taken_groups)
        taken_slots = torch.where(now, slot, taken_slots)
        taken_scores = torch.where(now, score[:, None], taken_scores)
    return taken_groups, taken_slots, taken_scores
