"""DFvT with UPerNet (Xiao et al., ECCV 2018) for semantic segmentation, as mmsegmentation has it.

Module names follow mmsegmentation's checkpoints, key for key; the auxiliary head of training is
left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import BackboneConfig, DenseBackbone

CHANNELS = 512

#: Grid sides of pyramid pooling.
POOL_SIDES = (1, 2, 3, 6)

#: Input pixels per logit, and what height and width of the input must be a multiple of.
LOGIT_STRIDE = 4
SIZE_MULTIPLE = 32


class ConvModule(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; the size stays."""

    def __init__(self, cin: int, cout: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def averaging_matrix(length: int, like: Tensor) -> Tensor:
    """Adaptive average pooling of `length` positions to all `POOL_SIDES`, as one matrix.

    Returns (12, length) of the dtype and device of `like`: 1 bin, then 2, 3 and 6. Bin i of k
    averages the positions floor(i * length / k) to ceil((i + 1) * length / k). Unlike the pooling
    operator it exports with a symbolic length.
    """
    bins = [(i, k) for k in POOL_SIDES for i in range(k)]
    index, side = torch.tensor(bins, device=like.device).T
    start = index * length // side
    stop = ((index + 1) * length + side - 1) // side
    position = torch.arange(length, device=like.device)
    covered = (position >= start[:, None]) & (position < stop[:, None])
    return covered.to(like.dtype) / (stop - start)[:, None].to(like.dtype)


def pyramid_pool(x: Tensor) -> list[Tensor]:
    """(N, C, H, W) to its adaptive averages (N, C, k, k) for k in `POOL_SIDES`."""
    rows = averaging_matrix(x.shape[2], x)
    cols = averaging_matrix(x.shape[3], x)
    pooled = rows @ (x @ cols.T)
    stops = [sum(POOL_SIDES[: i + 1]) for i in range(len(POOL_SIDES))]
    return [
        pooled[:, :, stop - side : stop, stop - side : stop]
        for side, stop in zip(POOL_SIDES, stops, strict=True)
    ]


class UPerHead(nn.Module):
    """Pyramid pooling on the coarsest map, top-down fusion, per-pixel classification."""

    def __init__(self, in_channels: tuple[int, int, int, int], num_classes: int) -> None:
        super().__init__()
        coarsest = in_channels[-1]
        self.conv_seg = nn.Conv2d(CHANNELS, num_classes, 1)
        # Published as pooling and convolution in sequence, hence the step without parameters.
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.Identity(), ConvModule(coarsest, CHANNELS, 1)) for _ in POOL_SIDES
        )
        self.bottleneck = ConvModule(coarsest + len(POOL_SIDES) * CHANNELS, CHANNELS, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(c, CHANNELS, 1) for c in in_channels[:-1])
        self.fpn_convs = nn.ModuleList(ConvModule(CHANNELS, CHANNELS, 3) for _ in in_channels[:-1])
        self.fpn_bottleneck = ConvModule(len(in_channels) * CHANNELS, CHANNELS, 3)

    def forward(self, features: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """Maps of strides 4, 8, 16, 32 to logits (N, classes, H/4, W/4)."""
        top = self._pool(features[3])
        fused = [top]
        for i in (2, 1, 0):
            top = self.lateral_convs[i](features[i]) + _enlarge(top, 2)
            fused.insert(0, self.fpn_convs[i](top))
        maps = [fused[0], *(_enlarge(fused[i], 2**i) for i in (1, 2, 3))]
        return self.conv_seg(self.fpn_bottleneck(torch.cat(maps, dim=1)))

    def _pool(self, x: Tensor) -> Tensor:
        context = [
            F.interpolate(module(pooled), x.shape[2:], mode="bilinear", align_corners=False)
            for module, pooled in zip(self.psp_modules, pyramid_pool(x), strict=True)
        ]
        return self.bottleneck(torch.cat((x, *context), dim=1))


def _enlarge(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


class UPerNet(nn.Module):
    """Backbone and head; takes any size in multiples of 32."""

    def __init__(self, config: BackboneConfig, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = DenseBackbone(config)
        self.decode_head = UPerHead(config.channels, num_classes)

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> Tensor:
        """Normalised float32 (N, 3, H, W) to logits float32 (N, classes, H/4, W/4).

        `image_sizes` int64 (N, 2) holds the valid height and width of each image; whatever lies
        outside is taken as zero, the published padding. H and W must be multiples of 32.
        """
        for axis, side in (("height", images.shape[2]), ("width", images.shape[3])):
            if side % SIZE_MULTIPLE:
                wanted = (side // SIZE_MULTIPLE + 1) * SIZE_MULTIPLE
                raise ValueError(
                    f"{axis} {side} is not a multiple of {SIZE_MULTIPLE}; pad to {wanted}"
                )
        if image_sizes is not None:
            images = zero_outside(images, image_sizes)
        return self.decode_head(self.backbone(images))


def zero_outside(images: Tensor, image_sizes: Tensor) -> Tensor:
    """(N, C, H, W) with everything beyond `image_sizes` int64 (N, 2) set to zero."""
    row = torch.arange(images.shape[2], device=images.device)[:, None]
    col = torch.arange(images.shape[3], device=images.device)
    height, width = image_sizes[:, 0, None, None, None], image_sizes[:, 1, None, None, None]
    inside = (row < height) & (col < width)
    return torch.where(inside, images, torch.zeros((), dtype=images.dtype, device=images.device))
