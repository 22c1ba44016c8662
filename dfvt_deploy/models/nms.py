"""Non-maximum suppression with fixed shapes: one code for eager PyTorch and the exported graph.

Both forms are loops of a constant number of steps, which export as the ONNX operator Scan.
Boxes of different groups (pyramid levels, classes) must not overlap: see `shift_groups`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .box_ops import iou

NmsKind = Literal["hard", "soft"]

#: Score of a slot that is empty, taken or suppressed.
REMOVED = -1.0

#: Soft-NMS drops what has decayed below this.
MIN_SOFT_SCORE = 1e-3

Outs = tuple[Tensor, ...]


def scan(
    step: Callable[[Tensor, Tensor], tuple[Tensor, Outs]], carry: Tensor, steps: int
) -> tuple[Tensor, Outs]:
    """`carry, outs = step(carry, i)` for i in 0..steps-1; the last carry and the stacked outs."""
    counter = torch.arange(steps, device=carry.device)
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan as exported_scan

        return exported_scan(step, carry, counter)
    stacks = []
    for i in counter:
        carry, outs = step(carry, i)
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
    count = boxes.shape[2]
    rank = torch.arange(count, device=boxes.device)
    # Row i, along the first axis so that the loop can read it: what box i suppresses.
    rows = boxes.permute(2, 0, 1, 3)[:, :, :, None]
    suppressed = (iou(rows, boxes) > threshold) & (rank > rank[:, None, None, None])

    def step(keep: Tensor, i: Tensor) -> tuple[Tensor, Outs]:
        kept = keep.index_select(2, i[None])
        row = suppressed.index_select(0, i[None])[0]
        return keep & ~(row & kept), ()

    return scan(step, real, count)[0]


def select_best(
    boxes: Tensor, scores: Tensor, kind: NmsKind, threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Take the best of all scores, suppress or decay its group by overlap, and so on.

    What is taken never scores more than what was taken before, so `count` steps give exactly the
    first `count` of a complete NMS.

    Args:
        boxes: (N, K, G, 4), shifted; K boxes in each of G groups.
        scores: (N, K, G), `REMOVED` in empty slots.
        kind: "hard" removes what overlaps by more than `threshold`; "soft" (linear) multiplies
            the scores of what overlaps by at least that by 1 - IoU.
        threshold: IoU.
        count: steps.

    Returns:
        Indices int64 (N, count) into the flattened K * G slots and their scores (N, count), which
        are negative once nothing is left.
    """
    _, slots, groups = scores.shape
    slot_ids = torch.arange(slots, device=scores.device)
    group_ids = torch.arange(groups, device=scores.device)

    def step(scores: Tensor, i: Tensor) -> tuple[Tensor, Outs]:
        best = scores.flatten(1).argmax(1, keepdim=True)
        slot, group = best // groups, best % groups
        in_group = group_ids == group
        members = boxes.gather(2, group[:, :, None, None].expand(-1, slots, -1, 4)).squeeze(2)
        taken = members.gather(1, slot[:, :, None].expand(-1, -1, 4))
        overlap = iou(members, taken)
        old = scores.gather(2, group[:, :, None].expand(-1, slots, -1)).squeeze(2)
        if kind == "hard":
            new = torch.where(overlap > threshold, REMOVED, old)
        else:
            new = torch.where(overlap >= threshold, old * (1 - overlap), old)
        new = torch.where(slot_ids == slot, REMOVED, new)
        score = old.gather(1, slot)
        scores = torch.where(in_group[:, None], new[:, :, None], scores)
        return scores, (best.squeeze(1), score.squeeze(1))

    _, (indices, best_scores) = scan(step, scores, count)
    return indices.T, best_scores.T
