"""The segmentation graph that is exported: input conversion, UPerNet, class map."""

from __future__ import annotations

from typing import Any

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


class SegmentationGraph(nn.Module):
    """`images` and `image_sizes` int64 (N, 2) to `class_map` (N, H, W), with `logits` on request.

    `class_map` is uint8, or int32 above 255 classes; `logits` float32 (N, classes, H/4, W/4).

    The class map is the argmax of the logits enlarged to (H, W). `row_tiles` bounds the memory
    this takes, to one tile of enlarged logits at a time instead of all; the result is the same.
    TensorRT-RTX 1.7 builds 2, 4 and 8 tiles, and fails inside its compiler on 1.
    """

    def __init__(
        self, model: UPerNet, kind: InputKind, *, with_logits: bool = False, row_tiles: int = 8
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


def class_map(logits: Tensor, row_tiles: int = 8) -> Tensor:
    """Logits (N, classes, h, w) to the best class of each of 4h x 4w pixels, uint8 or int32.

    The logits are enlarged bilinearly (align_corners=False) before the argmax, as published.
    """
    x = logits.permute(0, 2, 3, 1)
    if row_tiles == 1:
        best = _enlarge(x).argmax(dim=-1)
    else:
        rows = x.shape[1] // row_tiles
        # A row of context on either side of a tile; beyond the edge, the edge repeated.
        x = torch.cat((x[:, :1], x, x[:, -1:]), dim=1)
        tiles = [x[:, i * rows : (i + 1) * rows + 2] for i in range(row_tiles)]
        context = slice(LOGIT_STRIDE, -LOGIT_STRIDE)
        best = torch.cat([_enlarge(t).argmax(dim=-1)[:, context] for t in tiles], dim=1)
    if logits.shape[1] > 255:
        return best.to(torch.int32)
    # TensorRT reaches uint8 from float only, as the last node.
    return best.to(torch.float32).to(torch.uint8)


def _enlarge(x: Tensor) -> Tensor:
    return _Enlarge.apply(x)  # type: ignore[no-untyped-call]


class _Enlarge(torch.autograd.Function):
    """Bilinear enlarging by `LOGIT_STRIDE` of (N, h, w, C), C staying innermost in ONNX.

    PyTorch's own operator is written to ONNX for (N, C, h, w), where onnxruntime's resize and
    argmax are slower. (The dynamo exporter ignores `symbolic` and writes transposes instead.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        x = F.interpolate(x, scale_factor=LOGIT_STRIDE, mode="bilinear", align_corners=False)
        return x.permute(0, 2, 3, 1)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        scales = g.op("Constant", value_t=torch.tensor([1.0, LOGIT_STRIDE, LOGIT_STRIDE, 1.0]))
        no_region = g.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
        return g.op(
            "Resize",
            x,
            no_region,
            scales,
            mode_s="linear",
            coordinate_transformation_mode_s="half_pixel",
        )
