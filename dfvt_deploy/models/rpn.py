"""The feature pyramid, and its region proposal network: 1000 proposals per image."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import Nms
from . import box_ops

CHANNELS = 256

#: Strides of the pyramid's maps; the last map is a subsampling of the one before.
STRIDES = (4, 8, 16, 32, 64)


def conv_module(cin: int, cout: int, kernel: int) -> nn.Module:
    """A convolution with bias under the name that the published checkpoints give it."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(cin, cout, kernel, padding=kernel // 2)))


class FPN(nn.Module):
    """Feature pyramid network."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(conv_module(c, CHANNELS, 1) for c in channels)
        self.fpn_convs = nn.ModuleList(conv_module(CHANNELS, CHANNELS, 3) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Merge maps (N, Ci, H / stride, W / stride) of strides 4 to 32 into five maps."""
        merged = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=True)]
        for i in reversed(range(len(merged) - 1)):
            above = F.interpolate(merged[i + 1], scale_factor=2.0, mode="nearest")
            merged[i] = merged[i] + above
        out = [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=True)]
        out.append(F.max_pool2d(out[-1], 1, 2))
        return out


PROPOSALS = 1000
IOU_THRESHOLD = 0.7

RATIOS = (0.5, 1.0, 2.0)
SCALE = 8

#: The logit of an empty slot, below all others; FP16 and bfloat16 hold it exactly.
_EMPTY = -(2.0**14)


def base_anchors() -> Tensor:
    """Anchors around the origin, float32 (levels, ratios, 4); ratios are height to width."""
    height = torch.tensor(RATIOS).sqrt()
    side = torch.tensor(STRIDES, dtype=torch.float32)[:, None] * SCALE
    half_width, half_height = 0.5 * (side * (1 / height)), 0.5 * (side * height)
    return torch.stack((-half_width, -half_height, half_width, half_height), -1)


class RPNHead(nn.Module):
    """Objectness and box of three anchors at each place of the pyramid, and their selection."""

    def __init__(self, kind: Nms) -> None:
        super().__init__()
        self.kind = kind
        self.rpn_conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.rpn_cls = nn.Conv2d(CHANNELS, len(RATIOS), 1)
        self.rpn_reg = nn.Conv2d(CHANNELS, 4 * len(RATIOS), 1)
        self.anchors = nn.Buffer(base_anchors().flatten(0, 1), persistent=False)
        self.strides = nn.Buffer(torch.tensor(STRIDES), persistent=False)

    def forward(self, features: Sequence[Tensor], image_sizes: Tensor) -> Tensor:
        """Propose boxes (N, 1000, 4) in input pixels, from the pyramid and valid sizes (N, 2)."""
        return self.propose(*self.predict(features), image_sizes)[0]

    def predict(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute logits (N, 3, h, w) and deltas (N, 12, h, w) of each level."""
        hidden = [F.relu(self.rpn_conv(x)) for x in features]
        return [self.rpn_cls(x) for x in hidden], [self.rpn_reg(x) for x in hidden]

    def propose(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], image_sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Select the proposals (N, 1000, 4) in input pixels and their scores (N, 1000), best first.
        Rows beyond the last proposal are zero boxes with a negative score."""
        best = [self._best(x, d) for x, d in zip(logits, deltas, strict=True)]
        ranks, cells, moves = (torch.stack(parts, 1) for parts in zip(*best, strict=True))
        real = ranks > _EMPTY
        anchors = self._anchors(cells, logits[0].shape[-1])
        boxes = box_ops.clip(box_ops.decode(anchors, moves), image_sizes)
        boxes = torch.where(real[..., None], boxes, 0)
        shifted = box_ops.shift_groups(boxes, dim=1)
        if self.kind is Nms.HARD:
            keep = box_ops.greedy_keep(shifted, real, IOU_THRESHOLD)
            ranks, indices = box_ops.top(torch.where(keep, ranks, _EMPTY).flatten(1), PROPOSALS)
            scores, real = ranks.sigmoid(), ranks > _EMPTY
        else:
            scores = torch.where(real, ranks.sigmoid(), box_ops.REMOVED)
            level, slot, scores = box_ops.select_best(
                shifted, scores, Nms.SOFT, IOU_THRESHOLD, PROPOSALS
            )
            indices = (level * PROPOSALS + slot).reshape(-1, PROPOSALS)
            scores = scores.reshape(-1, PROPOSALS)
            first = torch.arange(PROPOSALS, device=scores.device) == 0
            # The best is taken whatever it scores.
            real = (scores >= box_ops.MIN_SOFT_SCORE) | first
        boxes = boxes.flatten(1, 2).gather(1, indices[:, :, None].expand(-1, -1, 4))
        return torch.where(real[..., None], boxes, 0), torch.where(real, scores, box_ops.REMOVED)

    def _best(self, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, anchor numbers (both (N, 1000)) and deltas (N, 1000, 4) of one level's best.
        Logits give the order of the scores: runtimes round a small sigmoid to one of few values."""
        ranks = logits.permute(0, 2, 3, 1).flatten(1)
        moves = deltas.permute(0, 2, 3, 1).reshape(deltas.shape[0], -1, 4)
        # A level may hold fewer anchors than are taken: empty slots keep the count constant.
        ranks = F.pad(ranks, (0, PROPOSALS), value=_EMPTY)
        moves = F.pad(moves, (0, 0, 0, PROPOSALS))
        ranks, cells = box_ops.top(ranks, PROPOSALS)
        return ranks, cells, moves.gather(1, cells[:, :, None].expand(-1, -1, 4))

    def _anchors(self, cells: Tensor, finest_width: int) -> Tensor:
        """Anchors (N, levels, K, 4) from their numbers in a level, the ratio counted fastest."""
        strides = self.strides[:, None]
        widths = (finest_width * STRIDES[0] + strides - 1) // strides
        ratios = len(RATIOS)
        ratio, place = cells % ratios, cells // ratios
        row, col = place // widths, place % widths
        corner = torch.stack((col, row, col, row), -1) * strides[..., None]
        level = torch.arange(len(STRIDES), device=cells.device)[:, None]
        return corner + self.anchors[level * ratios + ratio]
