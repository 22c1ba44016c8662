"""What a task says about its export: one `ExportRecipe` in its file of this package."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import BadInput
from ..manifest import Preprocessing
from ..models.task_model import model_of
from ..options import Size
from ..runners import Tensors
from ..task_entries import entry
from ..tasks.dense import SIZE_MULTIPLE
from ..tasks.images import MEAN, STD, normalise
from ..types import InputKind, Task
from .options import ExportOptions
from .to_onnx import ExportableGraph, check_opset

#: Symbolic dimensions of each output: axis to name.
DynamicAxes = Mapping[str, Mapping[int, str]]

#: Canvas at which a graph with a dynamic size is traced.
_TRACED = (128, 192)

#: The first image of a batch is padded by these pixels at the bottom and the right.
_PADDING = (5, 17)


def random_images(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Make images of smooth colours with noise, uint8 RGB (N, H, W, 3), the same at every call."""
    rng = np.random.default_rng([batch, height, width])
    coarse = rng.integers(0, 256, (batch, 8, 8, 3)).astype(np.float32)
    rows = np.arange(height) * 8 // height
    cols = np.arange(width) * 8 // width
    images = coarse[:, rows][:, :, cols] + rng.normal(0, 20, (batch, height, width, 3))
    return images.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class ExportRecipe:
    """How the models of one task are exported.

    task: the task, whose `TaskModel` makes the module that is exported.
    checked: batch size, height and width of the inputs on which an export of dynamic size must
        agree with PyTorch.
    dynamic_outputs: the symbolic dimensions of the outputs.
    preprocessing: makes the record of the preprocessing for the manifest.
    size: the only height and width that the network takes, or None where they are dynamic. A model
        with dynamic sizes also takes `image_sizes`.
    images: makes example images, uint8 RGB (N, H, W, 3), from a batch size, a height and a width.
    loops: whether the graph has loops; see `ExportableGraph`.
    refused: options that the task does not have, each with the reason of `Options.refuse`.
    """

    task: Task
    checked: tuple[tuple[int, int, int], ...]
    dynamic_outputs: Callable[[ExportOptions], DynamicAxes]
    preprocessing: Callable[[ExportOptions], Preprocessing]
    size: Size | None = None
    images: Callable[[int, int, int], NDArray[np.uint8]] = random_images
    loops: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)

    def refuse(self, options: ExportOptions) -> None:
        """Raise BadInput for an option that the task does not have, or a value it cannot take."""
        check_opset(options.opset, self.loops)
        for name, reason in self.refused.items():
            options.refuse(reason, name)
        if options.static and any(s < SIZE_MULTIPLE or s % SIZE_MULTIPLE for s in options.static):
            fit = [max(1, round(side / SIZE_MULTIPLE)) * SIZE_MULTIPLE for side in options.static]
            raise BadInput(
                "--static {}x{} is not in multiples of {}; the nearest is {}x{}".format(
                    *options.static, SIZE_MULTIPLE, *fit
                )
            )

    def graph(self, model: nn.Module, options: ExportOptions) -> ExportableGraph:
        """Put the module that is exported together, with example inputs."""
        size = self.size or options.static
        images, sizes = {0: "batch"}, {0: "batch"}
        if size is None:
            rows, cols = (1, 2) if options.input_kind is InputKind.UINT8 else (2, 3)
            images |= {rows: "height", cols: "width"}
        feed = self._feed(2, *(size or _TRACED), options)
        module = model_of(self.task).graph(model, options.input_kind, options.logits)
        return ExportableGraph(
            module=module.eval(),
            inputs={name: torch.from_numpy(value) for name, value in feed.items()},
            dynamic={name: images if name == "images" else sizes for name in feed},
            dynamic_outputs=self.dynamic_outputs(options),
            loops=self.loops,
        )

    def checked_feeds(self, options: ExportOptions) -> list[Tensors]:
        """Make the inputs on which the exported file must agree with PyTorch."""
        fixed = [(batch, *options.static) for batch in (1, 2)] if options.static else self.checked
        return [self._feed(*shape, options) for shape in fixed]

    def _feed(
        self, batch: int, height: int, width: int, options: ExportOptions
    ) -> dict[str, NDArray[Any]]:
        feed = {"images": as_input(self.images(batch, height, width), options.input_kind)}
        if self.size is not None:
            return feed
        sizes = np.tile(np.array([height, width], np.int64), (batch, 1))
        sizes[0] -= _PADDING
        return {**feed, "image_sizes": sizes}


def recipe_of(task: Task) -> ExportRecipe:
    """How the models of a task are exported."""
    recipe: ExportRecipe = entry("exporters", task, "RECIPE")
    return recipe


def dense_preprocessing(long_side: int, short_side: int, options: ExportOptions) -> Preprocessing:
    """Make the record of a dense task's preprocessing (`tasks.dense.resize_and_pad`)."""
    return Preprocessing(
        resize=f"into {long_side}x{short_side}, in proportion",
        interpolation="OpenCV INTER_LINEAR",
        padding=f"right and bottom to a multiple of {SIZE_MULTIPLE}",
        canvas=options.static,
        mean=MEAN,
        std=STD,
        normalised_in_graph=options.input_kind is InputKind.UINT8,
    )


def as_input(images: NDArray[np.uint8], kind: InputKind) -> NDArray[Any]:
    """Turn uint8 RGB (N, H, W, 3) into the `images` that a graph of this kind takes."""
    return images if kind is InputKind.UINT8 else normalise(images)
