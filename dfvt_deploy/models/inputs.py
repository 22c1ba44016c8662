"""What happens to images at the entry of a model: normalisation, and padding to a canvas."""

import torch
from torch import Tensor, nn

from ..tasks.dense import SIZE_MULTIPLE
from ..tasks.images import MEAN, STD
from ..types import InputKind


class ImageInput(nn.Module):
    """The first nodes of every exported graph: they turn `images` into the model's input."""

    def __init__(self, kind: InputKind) -> None:
        super().__init__()
        self.kind = kind
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 RGB (N, H, W, 3) to normalised float32 (N, 3, H, W); kind `float32` is that
        already."""
        if self.kind is InputKind.FLOAT32:
            return images
        # The cast comes first: TensorRT has no transpose of uint8.
        return (images.float().permute(0, 3, 1, 2) - self.mean) / self.std


def require_multiples(images: Tensor) -> None:
    """Raise ValueError unless the sides of images (N, C, H, W) are multiples of 32."""
    for axis, side in (("height", images.shape[2]), ("width", images.shape[3])):
        if side % SIZE_MULTIPLE:
            wanted = (side // SIZE_MULTIPLE + 1) * SIZE_MULTIPLE
            raise ValueError(f"{axis} {side} is not a multiple of {SIZE_MULTIPLE}; pad to {wanted}")


def zero_outside(images: Tensor, image_sizes: Tensor) -> Tensor:
    """Set everything beyond the valid heights and widths, int64 (N, 2), of images (N, C, H, W) to
    zero; each has its content in the top left corner."""
    row = torch.arange(images.shape[2], device=images.device)[:, None]
    col = torch.arange(images.shape[3], device=images.device)
    height, width = image_sizes[:, 0, None, None, None], image_sizes[:, 1, None, None, None]
    inside = (row < height) & (col < width)
    return torch.where(inside, images, torch.zeros((), dtype=images.dtype, device=images.device))
