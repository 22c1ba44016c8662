"""Multi-head attention within windows of the token grid.

Shapes: N batch, C channels, H and W the height and width of the grid, h heads, d head dimension,
w the window side, L = w*w the tokens of a window.

The graph is written for export: the batch stays symbolic in every reshape, everything that depends
on the weights or on a fixed grid folds into constants, and windows and heads are split in one
permutation.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 7
SHIFT = WINDOW // 2

#: Added to the attention logits of token pairs that a cyclic shift brought into one window although
#: they are not neighbours. FP16 holds it, unlike -inf.
MASKED = -100.0


def relative_position_index() -> Tensor:
    """The row of the bias table for every pair of tokens of a window, int64 (L, L)."""
    row, col = torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
    row, col = row.flatten(), col.flatten()
    delta_row = row[:, None] - row[None, :] + WINDOW - 1
    delta_col = col[:, None] - col[None, :] + WINDOW - 1
    return delta_row * (2 * WINDOW - 1) + delta_col


class WindowAttention(nn.Module):
    """Multi-head attention within windows of 7x7 tokens, with relative position bias. `shifted`
    rolls the grid by -3 first and masks pairs that the roll made neighbours; `padded` zero-pads it
    to multiples of 7, which its sides otherwise are."""

    def __init__(self, channels: int, heads: int, *, shifted: bool, padded: bool) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, channels // heads
        self.shifted, self.padded = shifted, padded
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        # The scale of q is applied to the weights, where it folds away at export.
        scale = torch.tensor([self.head_dim**-0.5, 1.0, 1.0]).repeat_interleave(channels)
        self.scale = nn.Buffer(scale, persistent=False)
        self.index = nn.Buffer(relative_position_index().flatten(), persistent=False)
        # Which pairs of tokens of a window the seam of a shifted grid separates: float32 (L, L)
        # tables of 0 and 1, for the seam before row `WINDOW - SHIFT` and that before the column.
        beyond = torch.arange(WINDOW) >= WINDOW - SHIFT
        row, col = beyond.repeat_interleave(WINDOW), beyond.repeat(WINDOW)
        self.seam_rows = nn.Buffer((row[:, None] != row).float(), persistent=False)
        self.seam_cols = nn.Buffer((col[:, None] != col).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, H, W, C) to tokens of the same shape."""
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
        """Position bias and seam mask of every window and head, (rows * cols * h, L, L)."""
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
