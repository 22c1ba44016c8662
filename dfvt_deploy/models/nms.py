"""Non-maximum suppression with fixed shapes: one code for eager PyTorch and the exported graph.

Both forms are loops of a constant number of steps, which export as the ONNX operator Loop: in a
trace they are compiled by TorchScript, which is why they are plain functions of tensors.
Boxes of different groups (pyramid levels, classes) must not overlap: see `shift_groups`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..types import Nms
from .box_ops import Corners, iou

#: Score of a slot that is empty, taken or suppressed.
REMOVED = -1.0

#: Soft-NMS drops what has decayed below this.
MIN_SOFT_SCORE = 1e-3


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices (N, k) of the best of scores (N, M); of equals the lower index first."""
    if torch.onnx.is_in_onnx_export():
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
    # Row i, along the first axis so that the loop can read it: what box i suppresses.
    rows = boxes.permute(2, 0, 1, 3)[:, :, :, None]
    overlaps = iou(_corners(rows), _corners(boxes)) > threshold
    suppressed = overlaps & (rank > rank[:, None, None, None])
    return _suppress_in_turn(real, suppressed)


def _corners(boxes: Tensor) -> Corners:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return x1, y1, x2, y2


@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _suppress_in_turn(keep: Tensor, suppressed: Tensor) -> Tensor:
    """keep (N, G, K); suppressed (K, N, G, K): what each box suppresses if it is kept."""
    for i in range(suppressed.shape[0]):
        # As a slice, TensorRT-RTX could not build the loop.
        keep = keep & ~(suppressed[i] & keep.select(2, i).unsqueeze(2))
    return keep


def exported_keep(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Hard NMS within each group by the ONNX operator; only while exporting.

    boxes (N, G, K, 4), scores (N, G, K) with `REMOVED` in empty slots; returns bool (N, G, K).
    """
    _, groups, slots = scores.shape
    # One row per kept box: group, 0, slot. Its true length is known at run time only.
    kept = _NonMaxSuppression.apply(  # type: ignore[no-untyped-call]
        boxes.flatten(0, 1), scores.reshape(-1, 1, slots), threshold
    )
    group, zero, slot = kept.unbind(1)
    keep = torch.zeros_like(scores, dtype=torch.bool).flatten()
    return keep.scatter(0, group * slots + slot, zero == 0).reshape(-1, groups, slots)


class _NonMaxSuppression(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        return torch.zeros(1, 3, dtype=torch.int64)  # what a trace needs is the rank

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, threshold: float) -> Any:
        most = g.op("Constant", value_t=torch.tensor([2**31 - 1]))  # no limit
        overlap = g.op("Constant", value_t=torch.tensor([threshold]))
        least = g.op("Constant", value_t=torch.tensor([REMOVED / 2]))
        return g.op("NonMaxSuppression", boxes, scores, most, overlap, least)


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
    corners = _corners(boxes.flatten(0, 1))
    return _select_in_turn(corners, scores, kind is Nms.SOFT, threshold, REMOVED, count)


@torch.jit.script_if_tracing  # type: ignore[untyped-decorator]
def _select_in_turn(
    corners: Corners,
    scores: Tensor,
    soft: bool,
    threshold: float,
    removed: float,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `select_best`, with corners (N * G, K) each."""
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
