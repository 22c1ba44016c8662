"""The DFvT backbone (Gao et al., ECCV 2022), one code for the classifier and the dense tasks.

Shapes: N batch, C channels, H and W the height and width at hand, h heads, d head dimension,
w the window side, L = w*w the tokens of a window.

Module names follow the published checkpoints, key for key. The graph is written for export:
the batch stays symbolic in every reshape, everything that depends on the weights or on a fixed
grid folds into constants, and windows and heads are split in one permutation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..types import Variant

WINDOW = 7
SHIFT = WINDOW // 2

#: Added to the attention logits of token pairs that a cyclic shift brought into one window
#: though they are not neighbours. Safe in FP16, unlike -inf.
MASKED = -100.0


@dataclass(frozen=True)
class BackboneConfig:
    """One published size. Stage i has `embed_dim * 2**i` channels."""

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


def relative_position_index() -> Tensor:
    """Rows of the bias table for every pair of tokens of a window, int64 (L, L)."""
    row, col = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
    row, col = row.flatten(), col.flatten()
    delta_row = row[:, None] - row[None, :] + WINDOW - 1
    delta_col = col[:, None] - col[None, :] + WINDOW - 1
    return delta_row * (2 * WINDOW - 1) + delta_col


def _opposite_sides() -> tuple[Tensor, Tensor]:
    """Pairs of in-window tokens that the shift's seam separates, by row and by column.

    Two float32 (L, L) tables of 0 and 1; the seam lies before row (column) `WINDOW - SHIFT`.
    """
    beyond = torch.arange(WINDOW) >= WINDOW - SHIFT
    row = beyond.repeat_interleave(WINDOW)
    col = beyond.repeat(WINDOW)
    return (row[:, None] != row).float(), (col[:, None] != col).float()


class WindowAttention(nn.Module):
    """Multi-head attention within windows of 7x7 tokens, with relative position bias.

    `shifted` rolls the grid by -3 first and masks pairs that the roll made neighbours.
    `padded` zero-pads the grid to a multiple of 7 (dense models); without it the grid must be one.
    """

    def __init__(self, channels: int, heads: int, *, shifted: bool, padded: bool) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = channels // heads
        self.shifted = shifted
        self.padded = padded
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.scale: Tensor
        self.index: Tensor
        self.seam_rows: Tensor
        self.seam_cols: Tensor
        # The scale of q, applied to the weights, where it folds away at export.
        scale = torch.tensor([self.head_dim**-0.5, 1.0, 1.0]).repeat_interleave(channels)
        seam_rows, seam_cols = _opposite_sides()
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("index", relative_position_index().flatten(), persistent=False)
        self.register_buffer("seam_rows", seam_rows, persistent=False)
        self.register_buffer("seam_cols", seam_cols, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) to the same shape."""
        _, height, width, channels = x.shape
        if self.padded:
            rows, cols = (height + WINDOW - 1) // WINDOW, (width + WINDOW - 1) // WINDOW
            x = F.pad(x, (0, 0, 0, cols * WINDOW - width, 0, rows * WINDOW - height))
        else:
            rows, cols = height // WINDOW, width // WINDOW
        if self.shifted:
            x = torch.roll(x, (-SHIFT, -SHIFT), (1, 2))
        x = self._attend(x, rows, cols, channels)
        if self.shifted:
            x = torch.roll(x, (SHIFT, SHIFT), (1, 2))
        if self.padded:
            x = x[:, :height, :width]
        return x

    def _attend(self, x: Tensor, rows: int, cols: int, channels: int) -> Tensor:
        # Windows join the head axis, so that bias and mask are one table for the whole batch.
        h, d, w = self.heads, self.head_dim, WINDOW
        qkv = F.linear(x, self.qkv.weight * self.scale[:, None], self.qkv.bias * self.scale)
        if rows == 1 and cols == 1 and not self.padded:
            qkv = qkv.reshape(-1, w * w, 3, h, d).permute(0, 2, 3, 1, 4)
        else:
            qkv = qkv.reshape(-1, rows, w, cols, w, 3, h, d).permute(0, 5, 1, 3, 6, 2, 4, 7)
            qkv = qkv.reshape(-1, 3, rows * cols * h, w * w, d)
        # Indexed, not split: a split's sizes are fixed by the exporters.
        q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        attention = q @ k.transpose(2, 3) + self._bias(rows, cols)
        out = attention.softmax(dim=-1) @ v
        if rows == 1 and cols == 1 and not self.padded:
            out = out.transpose(1, 2).reshape(-1, w, w, channels)
        else:
            out = out.reshape(-1, rows, cols, h, w, w, d).permute(0, 1, 4, 2, 5, 3, 6)
            out = out.reshape(-1, rows * w, cols * w, channels)
        return self.proj(out)

    def _bias(self, rows: int, cols: int) -> Tensor:
        """Position bias and region mask, (rows * cols * h, L, L), windows before heads."""
        length = WINDOW * WINDOW
        bias = self.relative_position_bias_table[self.index]
        bias = bias.reshape(length, length, self.heads).permute(2, 0, 1)
        if not self.shifted:
            return bias.repeat(rows * cols, 1, 1)
        device = bias.device
        last_row = (torch.arange(rows, device=device) == rows - 1).to(bias.dtype)
        last_col = (torch.arange(cols, device=device) == cols - 1).to(bias.dtype)
        across = torch.maximum(
            last_row[:, None, None, None] * self.seam_rows, last_col[:, None, None] * self.seam_cols
        )
        bias = bias + MASKED * across[:, :, None]
        return bias.reshape(rows * cols * self.heads, length, length)


class DualFusion(nn.Module):
    """DANE: mixes attention tokens with convolution tokens by a learnt spatial and channel gate."""

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
        """Both (N, H, W, C), the result too."""
        channel = self.fc_channel(attended.mean(dim=(1, 2), keepdim=True))
        gate = torch.sigmoid(self.fc_spatial(x_cnn) + channel)
        return attended + gate * (x_cnn - attended)


class Mlp(nn.Module):
    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels * ratio)
        self.fc2 = nn.Linear(channels * ratio, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Window attention, DANE, MLP."""

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


class Widen(nn.Module):
    """Doubles the channels between stages; the spatial reduction happened before attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.reduction = nn.Linear(channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(x))


class AttentionStage(nn.Module):
    def __init__(
        self, config: BackboneConfig, stage: int, *, shift_odd: bool, padded: bool
    ) -> None:
        super().__init__()
        channels = config.channels[stage]
        self.blocks = nn.ModuleList(
            Block(
                channels,
                config.heads[stage],
                config.mlp_ratio,
                shifted=shift_odd and j % 2 == 1,
                padded=padded,
            )
            for j in range(config.depths[stage])
        )
        self.downsample = Widen(channels) if stage < 3 else None

    def forward(self, x: Tensor, x_cnn: Tensor) -> Tensor:
        """The blocks alone; `downsample` is the caller's, as dense models tap the tokens first."""
        for block in self.blocks:
            x = block(x, x_cnn)
        return x


def _conv_bn_silu(
    cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(cout), nn.SiLU()]


class SpatialModule(nn.Module):
    """The convolution branch beside a stage: local features, and their reduction."""

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
        """(N, C, H, W) to `x_sp` of that shape and `x_inter`, reduced by the stride."""
        x_sp = self.conv1x1_1(x)
        return x_sp, self.conv1x1_2(self.conv1(x_sp))


class PatchEmbed(nn.Module):
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
    """(N, C, H, W) with even sides to (N, 4C, H/2, W/2), phases (0,0), (1,0), (0,1), (1,1)."""
    return torch.cat([x[:, :, row::2, col::2] for col in (0, 1) for row in (0, 1)], dim=1)


def _multiresolution_conv(channels: int) -> nn.Sequential:
    wide = 4 * channels
    return nn.Sequential(
        nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False),
        nn.BatchNorm2d(wide),
        nn.Conv2d(wide, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


def _to_tokens(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _to_map(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


class Backbone(nn.Module):
    """What classifier and dense backbone share; see `forward_stage`."""

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
            _multiresolution_conv(c) for c in config.channels[:3]
        )

    def forward_stage(self, stage: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Run stage `stage` on x (N, Ci, H, W).

        Returns its tokens (N, H', W', Ci) before widening and `x_sp` (N, Ci, H, W); H' is H/2,
        in the last stage H.
        """
        x_sp, x_inter = self.convlayers[stage](x)
        if stage < 3:
            x_cnn = self.multiresolution_conv[stage](space_to_depth(x_sp))
            x = F.max_pool2d(x, 3, 2, 1)
        else:
            x_cnn = x
        tokens = self.layers[stage](_to_tokens(x + x_inter), _to_tokens(x_cnn))
        return tokens, x_sp

    def widen(self, stage: int, tokens: Tensor) -> Tensor:
        """Tokens of stage < 3 to the next stage's input (N, 2Ci, H', W')."""
        return _to_map(self.layers[stage].get_submodule("downsample")(tokens))


class DenseBackbone(Backbone):
    """Multi-scale features for detection and segmentation, for any size in multiples of 32."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config, shift_odd=(True,) * 4, padded=True)
        c = config.channels
        self.norm0, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(ci) for ci in c)
        self.conv1x1layers = nn.ModuleList(nn.Conv2d(2 * ci, ci, 1, bias=False) for ci in c[:3])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalised float32 (N, 3, H, W), sides multiples of 32, to four maps.

        Map i is (N, Ci, H / 2**(i+2), W / 2**(i+2)).
        """
        x = self.patch_embed(images)
        norms = (self.norm0, self.norm1, self.norm2, self.norm3)
        outputs = []
        for i, norm in enumerate(norms):
            tokens, x_sp = self.forward_stage(i, x)
            out = _to_map(norm(tokens))
            if i < 3:
                out = F.interpolate(out, scale_factor=2.0, mode="nearest")
                out = self.conv1x1layers[i](torch.cat((out, x_sp), dim=1))
                x = self.widen(i, tokens)
            outputs.append(out)
        return outputs[0], outputs[1], outputs[2], outputs[3]
