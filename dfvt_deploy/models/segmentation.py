"""DFvT with UPerNet (Xiao et al., ECCV 2018) for semantic segmentation, as mmsegmentation has it,
and the graph that is exported, with its class map.

Module names follow mmsegmentation's checkpoints, key for key. The auxiliary head, which only
training uses, is left out.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tasks.segmentation import LOGIT_STRIDE
from .backbone import BackboneConfig, DenseBackbone
from .task_model import TaskModel, require_multiples, zero_outside

CHANNELS = 512

#: Grid sides of pyramid pooling.
POOL_SIDES = (1, 2, 3, 6)


class ConvNorm(nn.Module):
    """The parameters of a convolution without bias that keeps the size, and of its BatchNorm."""

    def __init__(self, cin: int, cout: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)


class ConvModule(ConvNorm):
    """Convolution, BatchNorm, ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def averaging_matrix(length: int, like: Tensor) -> Tensor:
    """Adaptive average pooling of `length` positions to each of `POOL_SIDES`, as one matrix (12,
    length) of the dtype and device of `like`: 1 bin, then 2, 3 and 6. Bin i of k averages positions
    floor(i * length / k) to ceil((i + 1) * length / k). It exports with a symbolic length."""
    index = torch.tensor([i for k in POOL_SIDES for i in range(k)], device=like.device)
    side = torch.tensor([k for k in POOL_SIDES for _ in range(k)], device=like.device)
    start = index * length // side
    stop = ((index + 1) * length + side - 1) // side
    position = torch.arange(length, device=like.device)
    covered = (position >= start[:, None]) & (position < stop[:, None])
    return covered.to(like.dtype) / (stop - start)[:, None].to(like.dtype)


def enlarging_matrix(small: int, large: int, like: Tensor) -> Tensor:
    """Bilinear resizing of `small` positions to `large`, shifted by each tap of a 3-wide kernel:
    (large, 3, small) of the dtype and device of `like`. Row p of tap t holds the weights that make
    up position p + t - 1 of the enlarged axis (align_corners=False), and zeros where that position
    lies outside, like the padding of a convolution."""
    source = torch.arange(small, device=like.device).to(like.dtype)
    target = torch.arange(large, device=like.device)[:, None]
    target = target + torch.arange(-1, 2, device=like.device)
    centre = ((target.to(like.dtype) + 0.5) * (small / large) - 0.5).clamp(min=0)
    centre = torch.minimum(centre, source[-1])
    weight = (1 - (centre[:, :, None] - source).abs()).clamp(min=0)
    inside = (target >= 0) & (target < large)
    return weight * inside[:, :, None].to(like.dtype)


def pyramid_pool(x: Tensor) -> list[Tensor]:
    """Pool a map (N, C, H, W) to its adaptive averages (N, C, k, k) for each k of `POOL_SIDES`."""
    rows = averaging_matrix(x.shape[2], x)
    cols = averaging_matrix(x.shape[3], x)
    pooled = rows @ (x @ cols.T)
    ends = zip(POOL_SIDES, itertools.accumulate(POOL_SIDES), strict=True)
    return [pooled[:, :, end - side : end, end - side : end] for side, end in ends]


class FusionConv(ConvNorm):
    """A 3x3 convolution of a map and of coarser maps that are enlarged to its size. Each tap of a
    convolution is a 1x1 convolution and a shift by a pixel, and a 1x1 convolution commutes with
    resizing. With `taps_first` the taps are therefore applied at the coarse sizes, and resizing and
    shift are a product with two matrices. The result is the same but for rounding, and the whole
    network needs 40 % fewer multiply-accumulates."""

    def __init__(self, fine_channels: int, coarse_channels: tuple[int, ...], cout: int) -> None:
        super().__init__(fine_channels + sum(coarse_channels), cout, 3)
        self.in_channels = (fine_channels, *coarse_channels)

    def forward(self, fine: Tensor, coarse: list[Tensor], *, taps_first: bool = False) -> Tensor:
        """Fuse a map (N, C, H, W) and coarser maps (N, Ci, Hi, Wi) to one (N, C', H, W)."""
        if taps_first:
            return F.relu(self._taps_first(fine, coarse))
        size = fine.shape[2:]
        enlarged = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in coarse]
        return F.relu(self.bn(self.conv(torch.cat((fine, *enlarged), dim=1))))

    def _taps_first(self, fine: Tensor, coarse: list[Tensor]) -> Tensor:
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None and variance is not None
        scale = self.bn.weight * torch.rsqrt(variance + self.bn.eps)
        weight, bias = self.conv.weight * scale[:, None, None, None], self.bn.bias - mean * scale
        height, width, channels = fine.shape[2], fine.shape[3], self.conv.out_channels
        parts, matrices = [], []
        fine_weight, *weights = torch.split(weight, list(self.in_channels), dim=1)
        for x, taps in zip(coarse, weights, strict=True):
            h, w = x.shape[2], x.shape[3]
            # Output channels are (C', column tap, row tap): row taps and rows become one axis.
            kernel = taps.permute(0, 3, 2, 1).reshape(9 * channels, -1, 1, 1)
            x = F.conv2d(x, kernel).reshape(-1, 3 * channels, 3 * h, w)
            x = enlarging_matrix(h, height, fine).reshape(height, 3 * h) @ x
            x = x.reshape(-1, channels, 3, height, w).transpose(2, 3)
            parts.append(x.reshape(-1, channels, height, 3 * w))
            matrices.append(enlarging_matrix(w, width, fine).reshape(width, 3 * w))
        enlarged = torch.cat(parts, dim=3) @ torch.cat(matrices, dim=1).T
        return F.conv2d(fine, fine_weight, bias, padding=1) + enlarged


class UPerHead(nn.Module):
    """Pyramid pooling on the coarsest map, top-down fusion, per-pixel classification."""

    def __init__(self, in_channels: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        coarsest = in_channels[-1]
        self.conv_seg = nn.Conv2d(CHANNELS, num_classes, 1)
        # The published sequence begins with a pooling layer, hence the step without parameters.
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.Identity(), ConvModule(coarsest, CHANNELS, 1)) for _ in POOL_SIDES
        )
        self.bottleneck = FusionConv(coarsest, (CHANNELS,) * len(POOL_SIDES), CHANNELS)
        self.lateral_convs = nn.ModuleList(ConvModule(c, CHANNELS, 1) for c in in_channels[:-1])
        self.fpn_convs = nn.ModuleList(ConvModule(CHANNELS, CHANNELS, 3) for _ in in_channels[:-1])
        self.fpn_bottleneck = FusionConv(CHANNELS, (CHANNELS,) * 3, CHANNELS)

    def forward(
        self, features: tuple[Tensor, Tensor, Tensor, Tensor], *, taps_first: bool = False
    ) -> Tensor:
        """Map features of strides 4 to 32 to logits (N, classes, H/4, W/4); see `FusionConv`."""
        coarsest = features[3]
        pooled = zip(self.psp_modules, pyramid_pool(coarsest), strict=True)
        context = [module(part) for module, part in pooled]
        top = self.bottleneck(coarsest, context, taps_first=taps_first)
        fused = [top]
        for i in (2, 1, 0):
            above = F.interpolate(top, scale_factor=2.0, mode="bilinear", align_corners=False)
            top = self.lateral_convs[i](features[i]) + above
            fused.insert(0, self.fpn_convs[i](top))
        return self.conv_seg(self.fpn_bottleneck(fused[0], fused[1:], taps_first=taps_first))


class UPerNet(nn.Module):
    """DFvT backbone and UPerNet head, for sides that are multiples of 32."""

    def __init__(self, config: BackboneConfig, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = DenseBackbone(config)
        self.decode_head = UPerHead(config.channels, num_classes)

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> Tensor:
        """Map normalised images, float32 (N, 3, H, W), to logits float32 (N, classes, H/4, W/4).
        image_sizes, int64 (N, 2), are valid heights and widths: the rest of the canvas counts as
        zero, the published padding. All of the canvas is valid without."""
        require_multiples(images)
        if image_sizes is not None:
            images = zero_outside(images, image_sizes)
        return self.decode_head(self.backbone(images))


#: Four times as many pieces of the logits are enlarged one after the other, to bound the memory.
_ROW_TILES = 2

#: Enlarging by four with half-pixel centres puts four rows in the place of each row. For each of
#: the four: the neighbour it is mixed with (-1 above, 1 below), and that neighbour's weight.
_PHASES = ((-1, 0.375), (-1, 0.125), (1, 0.125), (1, 0.375))


def _exported(
    model: UPerNet, images: Tensor, image_sizes: Tensor, logits: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """`class_map` and, if wanted, `logits` float32 (N, classes, H/4, W/4)."""
    x = zero_outside(images, image_sizes)
    found = model.decode_head(model.backbone(x), taps_first=True)
    classes = class_map(found)
    return (classes, found) if logits else classes


def class_map(logits: Tensor) -> Tensor:
    """Map logits (N, classes, h, w) to the best class of each of 4h x 4w pixels, uint8 or int32.
    The logits are enlarged bilinearly (align_corners=False) before the argmax, as published: rows
    as weighted sums of two, columns by a Resize of the last axis alone. A Resize of (N, h, w,
    classes) would be faster on a CPU, but onnxruntime's CUDA provider takes it for (N, C, H, W) and
    answers garbage (https://github.com/microsoft/onnxruntime/pull/12815)."""
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
    """Class ids (N, h, 4w) of one of four rows for each of logits (N, classes, h + 2, w)."""
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
    exported=_exported,
    outputs=_outputs,
    counted_size=(512, 2048),
    accuracy=(("miou", "mIoU"),),
)
