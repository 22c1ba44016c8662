"""Feature pyramid network: four backbone maps to five of 256 channels."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 256

#: Strides of the pyramid's maps; the last map is a subsampling of the one before.
STRIDES = (4, 8, 16, 32, 64)


class ConvModule(nn.Module):
    """A convolution with bias under the name that the published checkpoints give it."""

    def __init__(self, cin: int, cout: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FPN(nn.Module):
    """Feature pyramid network."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(c, CHANNELS, 1) for c in channels)
        self.fpn_convs = nn.ModuleList(ConvModule(CHANNELS, CHANNELS, 3) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Merge maps (N, Ci, H / stride, W / stride) of strides 4 to 32 into five maps."""
        merged = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=True)]
        for i in reversed(range(len(merged) - 1)):
            above = F.interpolate(merged[i + 1], scale_factor=2.0, mode="nearest")
            merged[i] = merged[i] + above
        out = [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=True)]
        out.append(F.max_pool2d(out[-1], 1, 2))
        return out
