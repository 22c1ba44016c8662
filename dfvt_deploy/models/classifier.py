"""DFvT for ImageNet classification at 224x224."""

from __future__ import annotations

from torch import Tensor, nn

from .backbone import WINDOW, Backbone, BackboneConfig

IMAGE_SIZE = 224


class Classifier(Backbone):
    """Backbone, LayerNorm, mean over tokens, linear head. Takes 224x224 images.

    At this size the token grids are 28, 14, 7 and 7, so nothing is padded, and the stages whose
    grid is a single window never shift.
    """

    def __init__(self, config: BackboneConfig, num_classes: int) -> None:
        grids = (IMAGE_SIZE // 8, IMAGE_SIZE // 16, IMAGE_SIZE // 32, IMAGE_SIZE // 32)
        super().__init__(config, shift_odd=tuple(g > WINDOW for g in grids), padded=False)
        self.num_classes = num_classes
        self.norm = nn.LayerNorm(config.channels[-1])
        self.head = nn.Linear(config.channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 (N, 3, 224, 224) to logits (N, num_classes)."""
        x = self.patch_embed(images)
        for i in range(3):
            tokens, _ = self.forward_stage(i, x)
            x = self.widen(i, tokens)
        tokens, _ = self.forward_stage(3, x)
        return self.head(self.norm(tokens).mean(dim=(1, 2)))
