"""What differs between the tasks when a model is exported: its graph, its checks, its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..artifact import Check, Preprocessing
from ..models.graphs import ClassificationGraph
from ..runners import Runner, Tensors
from ..tasks import classification
from ..tasks.images import MEAN, STD, normalise
from ..types import InputKind, Task
from .to_onnx import ExportableGraph

#: Largest difference between onnxruntime's and PyTorch's logits that an export may show.
MAX_LOGIT_DIFFERENCE = 1e-4

CHECKED_BATCHES = (1, 3, 8)


@dataclass(frozen=True)
class ExportRecipe:
    """How one task is exported.

    graph: the module to export for a model and an input kind, with examples.
    meta_inputs: inputs of the model on the meta device at the size of the published MACs.
    checks: compares a runner of the exported file with the model in PyTorch.
    preprocessing: the record for the manifest.
    """

    graph: Callable[[nn.Module, InputKind], ExportableGraph]
    meta_inputs: Callable[[], tuple[torch.Tensor, ...]]
    checks: Callable[[nn.Module, Runner, InputKind], tuple[Check, ...]]
    preprocessing: Callable[[InputKind], Preprocessing]


def _random_images(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth colours with noise on top, uint8 RGB (N, H, W, 3), the same at every call."""
    rng = np.random.default_rng([batch, height, width])
    coarse = rng.integers(0, 256, (batch, 8, 8, 3)).astype(np.float32)
    rows = np.arange(height) * 8 // height
    cols = np.arange(width) * 8 // width
    images = coarse[:, rows][:, :, cols] + rng.normal(0, 20, (batch, height, width, 3))
    return images.clip(0, 255).astype(np.uint8)


def _feed(images: NDArray[np.uint8], kind: InputKind) -> Tensors:
    return {"images": images if kind is InputKind.UINT8 else normalise(images)}


def _classification_graph(model: nn.Module, kind: InputKind) -> ExportableGraph:
    side = classification.INPUT_SIZE
    images = _feed(_random_images(2, side, side), kind)["images"]
    return ExportableGraph(
        module=ClassificationGraph(model, kind).eval(),
        inputs={"images": torch.from_numpy(images)},
        dynamic={"images": {0: "batch"}},
        dynamic_outputs={"logits": {0: "batch"}},
    )


def _classification_meta_inputs() -> tuple[torch.Tensor, ...]:
    side = classification.INPUT_SIZE
    return (torch.zeros(1, 3, side, side, device="meta"),)


def _classification_checks(model: nn.Module, runner: Runner, kind: InputKind) -> tuple[Check, ...]:
    checks = []
    side = classification.INPUT_SIZE
    for batch in CHECKED_BATCHES:
        images = _random_images(batch, side, side)
        with torch.no_grad():
            expected = model(torch.from_numpy(normalise(images))).numpy()
        logits = runner.infer(_feed(images, kind))["logits"]
        difference = float(np.abs(logits - expected).max())
        checks.append(
            Check(
                name=f"onnxruntime against PyTorch, logits, batch {batch}, max abs",
                figure=difference,
                limit=MAX_LOGIT_DIFFERENCE,
                passed=difference <= MAX_LOGIT_DIFFERENCE,  # false for nan too
            )
        )
    return tuple(checks)


def _classification_preprocessing(kind: InputKind) -> Preprocessing:
    side = classification.INPUT_SIZE
    return Preprocessing(
        resize=f"short side {classification.RESIZED_SHORT_SIDE}, long side in proportion",
        interpolation="Pillow BICUBIC",
        crop=(side, side),
        mean=MEAN,
        std=STD,
        normalised_in_graph=kind is InputKind.UINT8,
    )


RECIPES: Mapping[Task, ExportRecipe] = {
    Task.CLASSIFICATION: ExportRecipe(
        graph=_classification_graph,
        meta_inputs=_classification_meta_inputs,
        checks=_classification_checks,
        preprocessing=_classification_preprocessing,
    ),
}
