"""A tiny network that makes a vector of length 1 of an image."""

from torch import Tensor, nn
from torch.nn import functional

from ..tasks.embedding import INPUT_SIZE
from .backbone import BackboneConfig
from .task_model import TaskModel


class Embedder(nn.Module):
    """One convolution, a mean over places and a projection."""

    def __init__(self, config: BackboneConfig, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.patches = nn.Conv2d(3, config.embed_dim, 8, stride=8)
        self.project = nn.Linear(config.embed_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, 64, 64) to vectors (N, num_classes)."""
        places = functional.relu(self.patches(images))
        return functional.normalize(self.project(places.mean(dim=(2, 3))))


MODEL = TaskModel(
    network=Embedder,
    num_classes=16,
    head_weight="project.weight",
    outputs=lambda model, images: {"embedding": model(images)},
    counted_size=(INPUT_SIZE, INPUT_SIZE),
)
