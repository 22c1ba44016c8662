"""Non-maximum suppression with fixed shapes: one code for eager PyTorch and the exported graph.

Both forms are loops of a constant number of steps, which export as the ONNX operator Scan.
Boxes of different groups (pyramid levels, classes) must not overlap: see `shift_groups`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..types import Nms
from .box_ops import iou

#: Score of a slot that is empty, taken or suppressed.
REMOVED = -1.0

#: Soft-NMS drops what has decayed below this.
MIN_SOFT_SCORE = 1e-3

Tensors = tuple[Tensor, ...]


def scan(
    step: Callable[[Tensor, Tensors], tuple[Tensor, Tensors]], carry: Tensor, rows: Tensors
) -> tuple[Tensor, Tensors]:
    """`carry, outs = step(carry, row)` over the first axis; the last carry and the stacked outs."""
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan as exported_scan

        return exported_scan(step, carry, rows)
    stacks = []
    for row in zip(*rows, strict=True):
        carry, outs = step(carry, row)
        stacks.append(outs)
    return carry, tuple(torch.stack(outs) for outs in zip(*stacks, strict=True))


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices (N, k) of the best of scores (N, M); of equals the lower index first."""
    if torch.compiler.is_exporting():
        return scores.topk(k, dim=1)  # the ONNX operator keeps that order, torch.topk need not
    values, indices = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], indices[:, :k]


def shift_groups(boxes: Tensor, dim: int) -> Tensor:
    """Move each group's boxes away from all others', as the published batched NMS does.

    boxes (N, ..., 4), not negative, with groups along `dim` and zeros in empty slots. The rounding
    this adds is part of the published result.
    """
    spacing = boxes.flatten(1).amax(1) + 1
    groups = torch.arange(boxes.shape[dim], device=boxes.device, dtype=boxes.dtype)
    groups = groups.reshape(-1, *(1,) * (boxes.ndim - 1 - dim))
    return boxes + groups * spacing.reshape(-1, *(1,) * (boxes.ndim - 1))


def greedy_keep(boxes: Tensor, real: Tensor, threshold: float) -> Tensor:
    """Greedy NMS within each group of boxes already sorted by score.

    boxes (N, G, K, 4), real (N, G, K) bool; returns bool (N, G, K): real, and not overlapping a
    better kept box by more than `threshold`.
    """
    rank = torch.arange(boxes.shape[2], device=boxes.device)
    corners = boxes.unbind(-1)
    # Row i, along the first axis so that the loop can read it: what box i suppresses.
    row_corners = [corner.permute(2, 0, 1)[..., None] for corner in corners]
    overlaps = iou(row_corners, corners) > threshold
    suppressed = overlaps & (rank > rank[:, None, None, None])

    def step(keep: Tensor, row: Tensors) -> tuple[Tensor, Tensors]:
        i, suppressed_by_i = row
        return keep & ~(suppressed_by_i & keep.index_select(2, i)), ()

    return scan(step, real, (rank[:, None], suppressed))[0]


def exported_keep(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Hard NMS within each group by the ONNX operator; only while exporting.

    boxes (N, G, K, 4), scores (N, G, K) with `REMOVED` in empty slots; returns bool (N, G, K).
    """
    batch, groups, slots = scores.shape
    # One row per kept box: group, 0, slot. Its true length is known at run time only.
    kept = torch.onnx.ops.symbolic(
        "NonMaxSuppression",
        (
            boxes.flatten(0, 1),
            scores.reshape(-1, 1, slots),
            torch.tensor([slots]),
            torch.tensor([threshold]),
            torch.tensor([REMOVED / 2]),
        ),
        {"center_point_box": 0},
        dtype=torch.int64,
        shape=(batch * groups * slots, 3),
        version=11,
    )
    group, zero, slot = kept.unbind(1)
    keep = torch.zeros_like(scores, dtype=torch.bool).flatten(0, 1)
    return keep.index_put((group, slot), zero == 0).reshape(-1, groups, slots)


def select_best(
    boxes: Tensor, scores: Tensor, kind: Nms, threshold: float, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the best of all scores, suppress or decay its group by overlap, and so on.

    What is taken never scores more than what was taken before, so `count` steps give exactly the
    first `count` of a complete NMS.

    Args:
        boxes: (N, G, K, 4), shifted; K boxes in each of G groups.
        scores: (N, G, K), `REMOVED` in empty slots. Of equals, the lower group comes first, then
            the lower slot.
        kind: hard removes what overlaps by more than `threshold`; soft (linear) multiplies the
            scores of what overlaps by at least that by 1 - IoU.
        threshold: IoU.
        count: steps.

    Returns:
        Groups and slots int64 (N, count) and scores (N, count), which are negative once nothing is
        left.
    """
    batch, groups, slots = scores.shape
    device = scores.device
    slot_ids = torch.arange(slots, device=device)
    group_ids = torch.arange(groups, device=device)[:, None]
    first_group = groups * torch.arange(batch, device=device)
    # Copies: what a loop reads may not share memory.
    corners = [corner.flatten(0, 1).contiguous() for corner in boxes.unbind(-1)]

    def step(scores: Tensor, row: Tensors) -> tuple[Tensor, Tensors]:
        score, group = scores.amax(2).max(1)
        flat_group = first_group + group
        old = scores.flatten(0, 1).index_select(0, flat_group)
        slot = old.argmax(1, keepdim=True)
        members = [corner.index_select(0, flat_group) for corner in corners]
        overlap = iou(members, [corner.gather(1, slot) for corner in members])
        if kind is Nms.HARD:
            new = torch.where(overlap > threshold, REMOVED, old)
        else:
            new = torch.where(overlap >= threshold, old * (1 - overlap), old)
        new = torch.where(slot_ids == slot, REMOVED, new)
        in_group = group_ids == group[:, None, None]
        return torch.where(in_group, new[:, None], scores), (group, slot.squeeze(1), score)

    steps = torch.arange(count, device=device)
    _, (group, slot, score) = scan(step, scores, (steps,))
    return group.T, slot.T, score.T
