"""What a task says about its export; one `ExportRecipe` in each of the files beside this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact import Check, Preprocessing
from ..errors import BadInput
from ..runners import Runner
from ..tasks.dense import SIZE_MULTIPLE
from ..tasks.images import MEAN, STD, normalise
from ..types import InputKind, NmsOperator
from .to_onnx import ExportableGraph

#: Height and width of a canvas that is fixed at export.
Canvas = tuple[int, int]


@dataclass(frozen=True)
class GraphOptions:
    """What may be chosen about an exported graph.

    static: fixed height and width (dense tasks); they are dynamic without it.
    logits: segmentation's logits as a second output.
    nms_operator: what a detector's NMS is written as.
    """

    input_kind: InputKind = InputKind.UINT8
    static: Canvas | None = None
    logits: bool = False
    nms_operator: NmsOperator = NmsOperator.LOOP

    def __post_init__(self) -> None:
        if self.static and any(s < SIZE_MULTIPLE or s % SIZE_MULTIPLE for s in self.static):
            height, width = self.static
            fit = [max(1, round(s / SIZE_MULTIPLE)) * SIZE_MULTIPLE for s in self.static]
            raise BadInput(
                f"--static {height}x{width} is not in multiples of {SIZE_MULTIPLE}; "
                f"the nearest is {fit[0]}x{fit[1]}"
            )


@dataclass(frozen=True)
class ExportRecipe:
    """How one task is exported.

    graph: the module to export for a model, with examples.
    counted_size: height and width at which multiply-accumulates are counted, as in the paper.
    checks: compares a runner of the exported file with the model in PyTorch.
    preprocessing: the record for the manifest.
    refuse: raises BadInput for options that the task does not have.
    """

    graph: Callable[[Any, GraphOptions], ExportableGraph]
    counted_size: tuple[int, int]
    checks: Callable[[Any, Runner, GraphOptions], tuple[Check, ...]]
    preprocessing: Callable[[GraphOptions], Preprocessing]
    refuse: Callable[[GraphOptions], None]


def dense_preprocessing(long_side: int, short_side: int, options: GraphOptions) -> Preprocessing:
    """The record of a dense task's preprocessing (`tasks.dense.resize_and_pad`)."""
    return Preprocessing(
        resize=f"into {long_side}x{short_side}, in proportion",
        interpolation="OpenCV INTER_LINEAR",
        padding=f"right and bottom to a multiple of {SIZE_MULTIPLE}",
        canvas=options.static,
        mean=MEAN,
        std=STD,
        normalised_in_graph=options.input_kind is InputKind.UINT8,
    )


def random_images(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth colours with noise on top, uint8 RGB (N, H, W, 3), the same at every call."""
    rng = np.random.default_rng([batch, height, width])
    coarse = rng.integers(0, 256, (batch, 8, 8, 3)).astype(np.float32)
    rows = np.arange(height) * 8 // height
    cols = np.arange(width) * 8 // width
    images = coarse[:, rows][:, :, cols] + rng.normal(0, 20, (batch, height, width, 3))
    return images.clip(0, 255).astype(np.uint8)


def as_input(images: NDArray[np.uint8], kind: InputKind) -> NDArray[Any]:
    """uint8 RGB (N, H, W, 3) as the graph's `images`."""
    return images if kind is InputKind.UINT8 else normalise(images)
