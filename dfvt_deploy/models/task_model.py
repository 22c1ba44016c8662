"""What the networks of all tasks share: how images enter them, and what a task says about its own,
one `TaskModel` in its file of this package."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..tasks.dense import SIZE_MULTIPLE
from ..tasks.images import MEAN, STD
from ..types import InputKind, Nms, Task, Variant


class ImageInput(nn.Module):
    """The first nodes of every exported graph: they turn `images` into the model's input."""

    def __init__(self, kind: InputKind) -> None:
        super().__init__()
        self.kind = kind
        self.mean = nn.Buffer(torch.tensor(MEAN).reshape(3, 1, 1), persistent=False)
        self.std = nn.Buffer(torch.tensor(STD).reshape(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map `images` of the graph's kind to normalised float32 (N, 3, H, W)."""
        if self.kind is InputKind.FLOAT32:
            return images
        # The cast comes first: TensorRT has no transpose of uint8.
        return (images.float().permute(0, 3, 1, 2) - self.mean) / self.std


class ExportedGraph(nn.Module):
    """The module that is exported: `images` and, for a dense model, `image_sizes` to the outputs,
    which `compute` makes from the model, normalised images and the sizes."""

    def __init__(self, model: nn.Module, kind: InputKind, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.images, self.model, self.compute = ImageInput(kind), model, compute

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> Any:
        sizes = () if image_sizes is None else (image_sizes,)
        return self.compute(self.model, self.images(images), *sizes)


def require_multiples(images: Tensor) -> None:
    """Raise ValueError unless the sides of images (N, C, H, W) are multiples of 32."""
    for axis, side in (("height", images.shape[2]), ("width", images.shape[3])):
        if side % SIZE_MULTIPLE:
            wanted = (side // SIZE_MULTIPLE + 1) * SIZE_MULTIPLE
            raise ValueError(f"{axis} {side} is not a multiple of {SIZE_MULTIPLE}; pad to {wanted}")


def zero_outside(images: Tensor, image_sizes: Tensor) -> Tensor:
    """Zero images (N, C, H, W) beyond their valid heights and widths, int64 (N, 2)."""
    row = torch.arange(images.shape[2], device=images.device)[:, None]
    col = torch.arange(images.shape[3], device=images.device)
    height, width = image_sizes[:, 0, None, None, None], image_sizes[:, 1, None, None, None]
    inside = (row < height) & (col < width)
    return torch.where(inside, images, torch.zeros((), dtype=images.dtype, device=images.device))


@dataclass(frozen=True)
class TaskModel:
    """The network of one task.

    network: makes the model from a `BackboneConfig`, a class count and, for a detector, an `Nms`.
    num_classes: classes of the published models, without background.
    head_weight: the state-dict key of the last layer, which only checkpoints of this task have.
    background_rows: rows of that layer that are no classes of their own.
    backbone_prefix: what the state-dict keys of the backbone begin with.
    exported: computes the outputs of the exported graph, see `ExportedGraph`; of a segmenter with
        `logits` these too.
    outputs: computes the outputs of the exported graph as published, from the model, normalised
        images (N, 3, H, W) and, for a dense model, their valid sizes int64 (N, 2). It shares no
        code with `exported` beyond the model, so that a mistake in either shows.
    counted_size: height and width at which the paper counts multiply-accumulates.
    counted_parts: the modules whose multiply-accumulates are counted apart, with example inputs on
        the meta device, for a model and images.
    accuracy: the published figures of accuracy, key and title of each.
    release_files: names of the authors' checkpoints in their release.
    published_nms: the NMS of each published variant, of a detector.
    untrained_gains: factors of the random weights of untrained layers, by state-dict key.
    untrained_shifts: what is added to the last element of an untrained bias, by state-dict key.
    """

    network: Callable[..., nn.Module]
    num_classes: int
    head_weight: str
    outputs: Callable[..., dict[str, Tensor]]
    counted_size: tuple[int, int]
    exported: Callable[..., Any] = lambda model, *inputs, **_: model(*inputs)
    accuracy: tuple[tuple[str, str], ...] = ()
    background_rows: int = 0
    backbone_prefix: str = "backbone."
    counted_parts: Callable[[Any, Tensor], Mapping[str, list[tuple[nn.Module, Any]]]] = (
        lambda model, images: {"model": [(model, images)]}
    )
    release_files: Mapping[Variant, str] = field(default_factory=dict)
    published_nms: Mapping[Variant, Nms] = field(default_factory=dict)
    untrained_gains: Mapping[str, float] = field(default_factory=dict)
    untrained_shifts: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_backbone(self) -> bool:
        """Whether the network is a backbone with a head, so that dense models can use it."""
        return not self.backbone_prefix

    def graph(self, model: nn.Module, kind: InputKind, logits: bool = False) -> ExportedGraph:
        """The module that is exported of a model, in eval mode."""
        compute = partial(self.exported, logits=True) if logits else self.exported
        return ExportedGraph(model, kind, compute).eval()


def model_of(task: Task) -> TaskModel:
    """The network of a task."""
    return task.entry("models", "MODEL")
