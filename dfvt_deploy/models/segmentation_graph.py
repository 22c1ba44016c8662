"""The segmentation graph that is exported: input conversion, UPerNet, class map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tasks.segmentation import LOGIT_STRIDE
from ..types import InputKind
from .canvas import zero_outside
from .graphs import ImageInput
from .upernet import UPerNet

#: Row tiles that divide the logits of any size: their height is a multiple of 8.
ROW_TILES = (1, 2, 4, 8)

#: Enlarging by four with half-pixel centres puts four rows in place of each: the neighbour that
#: each leans to (-1 above, 1 below), and that neighbour's weight.
_PHASES = ((-1, 0.375), (-1, 0.125), (1, 0.125), (1, 0.375))


class SegmentationGraph(nn.Module):
    """`images` and `image_sizes` int64 (N, 2) to `class_map` (N, H, W), with `logits` on request.

    `class_map` is uint8, or int32 above 255 classes; `logits` float32 (N, classes, H/4, W/4).

    The class map is the argmax of the logits enlarged to (H, W). Four times `row_tiles` pieces of
    them are enlarged one after the other, which bounds the memory; the result is the same.
    """

    def __init__(
        self, model: UPerNet, kind: InputKind, *, with_logits: bool = False, row_tiles: int = 2
    ) -> None:
        super().__init__()
        if row_tiles not in ROW_TILES:
            raise ValueError(f"row_tiles {row_tiles} is not one of {ROW_TILES}")
        self.images = ImageInput(kind)
        self.model = model
        self.with_logits = with_logits
        self.row_tiles = row_tiles

    def forward(self, images: Tensor, image_sizes: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = zero_outside(self.images(images), image_sizes)
        logits = self.model.decode_head(self.model.backbone(x), taps_first=True)
        classes = class_map(logits, self.row_tiles)
        return (classes, logits) if self.with_logits else classes


def class_map(logits: Tensor, row_tiles: int = 2) -> Tensor:
    """Logits (N, classes, h, w) to the best class of each of 4h x 4w pixels, uint8 or int32.

    The logits are enlarged bilinearly (align_corners=False) before the argmax, as published: rows
    as weighted sums of two, columns by a Resize of the last axis alone. A Resize of (N, h, w,
    classes) would be faster on a CPU, but onnxruntime's CUDA provider takes it for (N, C, H, W)
    and answers garbage (https://github.com/microsoft/onnxruntime/pull/12815).
    """
    rows = logits.shape[2] // row_tiles
    # Beyond the edge, the edge is repeated.
    padded = torch.cat((logits[:, :, :1], logits, logits[:, :, -1:]), dim=2)
    tiles = []
    for i in range(row_tiles):
        tile = padded[:, :, i * rows : (i + 1) * rows + 2]
        tiles.append(torch.stack([_best_of_row(tile, *phase) for phase in _PHASES], dim=2))
    best = torch.cat(tiles, dim=1)  # (N, h, 4, 4w)
    best = best.reshape(best.shape[0], best.shape[1] * LOGIT_STRIDE, best.shape[3])
    if logits.shape[1] > 255:
        return best.to(torch.int32)
    # TensorRT reaches uint8 from float only, as the last node.
    return best.to(torch.float32).to(torch.uint8)


def _best_of_row(tile: Tensor, neighbour: int, weight: float) -> Tensor:
    """One of the four rows in place of each: (N, classes, h + 2, w) to class ids (N, h, 4w)."""
    here = tile[:, :, 1:-1]
    beside = tile[:, :, :-2] if neighbour < 0 else tile[:, :, 2:]
    row = here * (1 - weight) + beside * weight
    row = F.interpolate(row, scale_factor=(1.0, LOGIT_STRIDE), mode="bilinear", align_corners=False)
    # The argmax of the innermost axis is several times faster than that of the second.
    return row.permute(0, 2, 3, 1).argmax(dim=-1)
