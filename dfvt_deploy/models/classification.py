"""DFvT for ImageNet classification at 224x224."""

from torch import Tensor, nn

from ..tasks.classification import INPUT_SIZE
from ..types import Variant
from .backbone import Backbone, BackboneConfig
from .task_model import TaskModel
from .window_attention import WINDOW


class Classifier(Backbone):
    """Backbone, LayerNorm, mean over tokens, linear head. The token grids are 28, 14, 7 and 7:
    nothing is padded, and stages with a single window never shift."""

    def __init__(self, config: BackboneConfig, num_classes: int) -> None:
        grids = (INPUT_SIZE // 8, INPUT_SIZE // 16, INPUT_SIZE // 32, INPUT_SIZE // 32)
        super().__init__(config, shift_odd=tuple(g > WINDOW for g in grids), padded=False)
        self.num_classes = num_classes
        self.norm = nn.LayerNorm(config.channels[-1])
        self.head = nn.Linear(config.channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images, float32 (N, 3, 224, 224), to logits (N, num_classes)."""
        x = self.patch_embed(images)
        for i in range(3):
            tokens, _ = self.forward_stage(i, x)
            x = self.widen(i, tokens)
        tokens, _ = self.forward_stage(3, x)
        return self.head(self.norm(tokens).mean(dim=(1, 2)))


MODEL = TaskModel(
    network=Classifier,
    num_classes=1000,
    head_weight="head.weight",
    backbone_prefix="",
    outputs=lambda model, images: {"logits": model(images)},
    counted_size=(INPUT_SIZE, INPUT_SIZE),
    accuracy=(("top1", "top-1 %"),),
    release_files={
        Variant.T: "DFvT_T_7295.pth",
        Variant.S: "DFvT_S_7829.pth",
        Variant.B: "DFvT_B_8198.pth",
    },
)
