"""The DFvT backbone (Gao et al., ECCV 2022), which the classifier and the dense models share: its
published sizes, the layers of a stage, and the four stages.

Shapes: N batch, Ci channels of stage i, H and W the height and width of the map or token grid at
hand. Module names follow the published checkpoints, key for key.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import Variant
from .window_attention import WindowAttention


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of one backbone: channels of the first stage, which double with each further one,
    blocks and attention heads of each stage, and an MLP's hidden width over its channels."""

    embed_dim: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    mlp_ratio: int

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels of the four stages, which are also those of the dense outputs."""
        c = self.embed_dim
        return c, 2 * c, 4 * c, 8 * c


VARIANTS: Mapping[Variant, BackboneConfig] = {
    Variant.T: BackboneConfig(48, (1, 1, 2, 1), (3, 6, 12, 24), 4),
    Variant.S: BackboneConfig(96, (1, 1, 2, 1), (3, 6, 12, 24), 2),
    Variant.B: BackboneConfig(128, (2, 2, 6, 2), (4, 8, 16, 32), 2),
}


class DualFusion(nn.Module):
    """DANE: mixes attention and convolution tokens by a learnt gate over space and channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = channels // 16
        self.fc_spatial = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 1, bias=False))
        self.fc_channel = nn.Sequential(
            nn.Linear(channels, reduced, bias=False),
            nn.SiLU(),
            nn.LayerNorm(reduced),
            nn.Linear(reduced, channels, bias=False),
        )

    def forward(self, attended: Tensor, x_cnn: Tensor) -> Tensor:
        """Mix the tokens of attention and of the convolutions, (N, H, W, C) each."""
        channel = self.fc_channel(attended.mean(dim=(1, 2), keepdim=True))
        gate = torch.sigmoid(self.fc_spatial(x_cnn) + channel)
        return attended + gate * (x_cnn - attended)


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels * ratio)
        self.fc2 = nn.Linear(channels * ratio, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """One transformer block: window attention, DANE, MLP."""

    def __init__(
        self, channels: int, heads: int, mlp_ratio: int, *, shifted: bool, padded: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, shifted=shifted, padded=padded)
        self.select = DualFusion(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, mlp_ratio)

    def forward(self, x: Tensor, x_cnn: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = self.select(x, x_cnn)
        return x + self.mlp(self.norm2(x))


class AttentionStage(nn.Module):
    """The blocks of one stage, of which every second shifts its windows with `shift_odd`, and
    `downsample` to twice the channels for the next stage. `padded` as in `WindowAttention`."""

    def __init__(
        self, config: BackboneConfig, stage: int, *, shift_odd: bool, padded: bool
    ) -> None:
        super().__init__()
        channels = config.channels[stage]
        sizes = channels, config.heads[stage], config.mlp_ratio
        self.blocks = nn.ModuleList(
            Block(*sizes, shifted=shift_odd and j % 2 == 1, padded=padded)
            for j in range(config.depths[stage])
        )
        if stage < 3:
            norm, wider = nn.LayerNorm(channels), nn.Linear(channels, 2 * channels, bias=False)
            self.downsample = nn.Sequential(OrderedDict(norm=norm, reduction=wider))

    def forward(self, x: Tensor, x_cnn: Tensor) -> Tensor:
        """Run the blocks, without `downsample`, on tokens (N, H, W, C)."""
        for block in self.blocks:
            x = block(x, x_cnn)
        return x


def _conv_bn_silu(
    cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(cout), nn.SiLU()]


class SpatialModule(nn.Module):
    """The convolution branch beside a stage: local features, and the same at a smaller size."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        c = channels
        self.conv1x1_1 = nn.Sequential(
            *_conv_bn_silu(c, c, 1),
            *_conv_bn_silu(c, c, 3, groups=c),
            *_conv_bn_silu(c, c, 3, groups=c),
        )
        self.conv1 = nn.Sequential(*_conv_bn_silu(c, c, 3, stride, groups=c))
        self.conv1x1_2 = nn.Sequential(*_conv_bn_silu(c, c, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, C, H, W) to `x_sp` of that shape and `x_inter`, smaller by the stride."""
        x_sp = self.conv1x1_1(x)
        return x_sp, self.conv1x1_2(self.conv1(x_sp))


class PatchEmbed(nn.Module):
    """Two strided convolutions from images (N, 3, H, W) to the first map (N, C0, H/4, W/4)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(3, embed_dim // 2, 3, 2, 1)
        self.proj2 = nn.Conv2d(embed_dim // 2, embed_dim, 3, 2, 1)
        self.norm = nn.BatchNorm2d(embed_dim)
        self.norm1 = nn.BatchNorm2d(embed_dim // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.proj1(x)))
        return F.silu(self.norm(self.proj2(x)))


def space_to_depth(x: Tensor) -> Tensor:
    """Map (N, C, H, W) to (N, 4C, H/2, W/2), the phases in the order (0,0), (1,0), (0,1), (1,1)."""
    return torch.cat([x[:, :, row::2, col::2] for col in (0, 1) for row in (0, 1)], dim=1)


def multiresolution_conv(channels: int) -> nn.Sequential:
    """A depthwise and a pointwise convolution from 4C channels to C."""
    wide = 4 * channels
    return nn.Sequential(
        nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False),
        nn.BatchNorm2d(wide),
        nn.Conv2d(wide, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


class Backbone(nn.Module):
    """The layers that the classifier and the dense backbone share. `shift_odd` says for each stage
    whether every second block shifts its windows; `padded` as in `WindowAttention`."""

    def __init__(
        self, config: BackboneConfig, *, shift_odd: tuple[bool, ...], padded: bool
    ) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.layers = nn.ModuleList(
            AttentionStage(config, i, shift_odd=shift_odd[i], padded=padded) for i in range(4)
        )
        self.convlayers = nn.ModuleList(
            SpatialModule(c, stride=2 if i < 3 else 1) for i, c in enumerate(config.channels)
        )
        self.multiresolution_conv = nn.ModuleList(
            multiresolution_conv(c) for c in config.channels[:3]
        )

    def forward_stage(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run one stage on (N, Ci, H, W) to its tokens (N, H', W', Ci), before their channels are
        doubled, and convolution features (N, Ci, H, W). H' is H/2, in the last stage H."""
        x_sp, x_inter = self.convlayers[stage](x)
        if stage < 3:
            x_cnn = self.multiresolution_conv[stage](space_to_depth(x_sp))
            x = F.max_pool2d(x, 3, 2, 1)
        else:
            x_cnn = x
        tokens = self.layers[stage]((x + x_inter).permute(0, 2, 3, 1), x_cnn.permute(0, 2, 3, 1))
        return tokens, x_sp

    def widen(self, stage: int, tokens: Tensor) -> Tensor:
        """Turn the tokens of stage 0, 1 or 2 into the next stage's input (N, 2Ci, H', W')."""
        return self.layers[stage].get_submodule("downsample")(tokens).permute(0, 3, 1, 2)


class DenseBackbone(Backbone):
    """Multi-scale features for detection and segmentation, for sides that are multiples of 32."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config, shift_odd=(True,) * 4, padded=True)
        c = config.channels
        self.norm0, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(ci) for ci in c)
        self.conv1x1layers = nn.ModuleList(nn.Conv2d(2 * ci, ci, 1, bias=False) for ci in c[:3])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map normalised images (N, 3, H, W) to four maps (N, Ci, H / 2**(i+2), W / 2**(i+2))."""
        x = self.patch_embed(images)
        norms = (self.norm0, self.norm1, self.norm2, self.norm3)
        outputs = []
        for i, norm in enumerate(norms):
            tokens, x_sp = self.forward_stage(i, x)
            out = norm(tokens).permute(0, 3, 1, 2)
            if i < 3:
                out = F.interpolate(out, scale_factor=2.0, mode="nearest")
                out = self.conv1x1layers[i](torch.cat((out, x_sp), dim=1))
                x = self.widen(i, tokens)
            outputs.append(out)
        return outputs[0], outputs[1], outputs[2], outputs[3]
