"""The input of the dense models: a canvas with an image in its top left corner."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tasks.dense import SIZE_MULTIPLE


def require_multiples(images: Tensor) -> None:
    """Raise ValueError unless the sides of (N, C, H, W) are multiples of 32."""
    for axis, side in (("height", images.shape[2]), ("width", images.shape[3])):
        if side % SIZE_MULTIPLE:
            wanted = (side // SIZE_MULTIPLE + 1) * SIZE_MULTIPLE
            raise ValueError(f"{axis} {side} is not a multiple of {SIZE_MULTIPLE}; pad to {wanted}")


def zero_outside(images: Tensor, image_sizes: Tensor) -> Tensor:
    """(N, C, H, W) with everything beyond `image_sizes` int64 (N, 2) set to zero."""
    row = torch.arange(images.shape[2], device=images.device)[:, None]
    col = torch.arange(images.shape[3], device=images.device)
    height, width = image_sizes[:, 0, None, None, None], image_sizes[:, 1, None, None, None]
    inside = (row < height) & (col < width)
    return torch.where(inside, images, torch.zeros((), dtype=images.dtype, device=images.device))
