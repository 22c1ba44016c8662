"""UPerNet on the DFvT backbone: the segmentation graph that is exported, with its class map."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tasks.segmentation import LOGIT_STRIDE
from ..types import InputKind
from .inputs import ImageInput, zero_outside
from .task_model import TaskModel
from .upernet import UPerNet

#: Four times as many pieces of the logits are enlarged one after the other, to bound the memory.
_ROW_TILES = 2

#: Enlarging by four with half-pixel centres puts four rows in the place of each row. For each of
#: the four: the neighbour it is mixed with (-1 above, 1 below), and that neighbour's weight.
_PHASES = ((-1, 0.375), (-1, 0.125), (1, 0.125), (1, 0.375))


class SegmentationGraph(nn.Module):
    """The module that is exported: `images` and `image_sizes` int64 (N, 2), the valid heights and
    widths, to `class_map` (N, H, W) uint8, or int32 above 255 classes; with `with_logits` also to
    `logits` float32 (N, classes, H/4, W/4)."""

    def __init__(self, model: UPerNet, kind: InputKind, *, with_logits: bool = False) -> None:
        super().__init__()
        self.images = ImageInput(kind)
        self.model = model
        self.with_logits = with_logits

    def forward(self, images: Tensor, image_sizes: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = zero_outside(self.images(images), image_sizes)
        logits = self.model.decode_head(self.model.backbone(x), taps_first=True)
        classes = class_map(logits)
        return (classes, logits) if self.with_logits else classes


def class_map(logits: Tensor) -> Tensor:
    """Map logits (N, classes, h, w) to the best class of each of 4h x 4w pixels, uint8 or int32.

    The logits are enlarged bilinearly (align_corners=False) before the argmax, as published: rows
    as weighted sums of two, columns by a Resize of the last axis alone. A Resize of (N, h, w,
    classes) would be faster on a CPU, but onnxruntime's CUDA provider takes it for (N, C, H, W)
    and answers garbage (https://github.com/microsoft/onnxruntime/pull/12815).
    """
    rows = logits.shape[2] // _ROW_TILES
    # Beyond the edge the edge is repeated.
    padded = torch.cat((logits[:, :, :1], logits, logits[:, :, -1:]), dim=2)
    tiles = []
    for i in range(_ROW_TILES):
        tile = padded[:, :, i * rows : (i + 1) * rows + 2]
        tiles.append(torch.stack([_best_of_row(tile, *phase) for phase in _PHASES], dim=2))
    best = torch.cat(tiles, dim=1)  # (N, h, 4, 4w)
    best = best.reshape(best.shape[0], best.shape[1] * LOGIT_STRIDE, best.shape[3])
    if logits.shape[1] > 255:
        return best.to(torch.int32)
    # TensorRT reaches uint8 from float only, as the last node.
    return best.to(torch.float32).to(torch.uint8)


def _best_of_row(tile: Tensor, neighbour: int, weight: float) -> Tensor:
    """Class ids (N, h, 4w) of one of the four rows that take the place of each row of the tile,
    logits (N, classes, h + 2, w) with the rows above and below."""
    here = tile[:, :, 1:-1]
    beside = tile[:, :, :-2] if neighbour < 0 else tile[:, :, 2:]
    row = here * (1 - weight) + beside * weight
    row = F.interpolate(row, scale_factor=(1.0, LOGIT_STRIDE), mode="bilinear", align_corners=False)
    # The argmax of the innermost axis is several times faster than that of the second.
    return row.permute(0, 2, 3, 1).argmax(dim=-1)


def _outputs(model: nn.Module, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
    logits = model(images, image_sizes)
    enlarged = F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
    # No class is -1, so that nothing agrees with a network that overflows.
    class_map = torch.where(logits.isfinite().all(), enlarged.argmax(1), -1)
    return {"class_map": class_map, "logits": logits}


MODEL = TaskModel(
    network=UPerNet,
    num_classes=150,
    head_weight="decode_head.conv_seg.weight",
    graph=lambda model, kind, logits: SegmentationGraph(model, kind, with_logits=logits),
    outputs=_outputs,
    counted_size=(512, 2048),
    accuracy=(("miou", "mIoU"),),
)
