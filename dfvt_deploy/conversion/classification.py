"""How the classifier is exported and checked."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..artifact import Check, Preprocessing
from ..errors import BadInput
from ..models.graphs import ClassificationGraph
from ..runners import Runner
from ..tasks import classification
from ..tasks.images import MEAN, STD, normalise
from ..types import InputKind, NmsOperator
from .recipe import ExportRecipe, GraphOptions, as_input, random_images
from .to_onnx import ExportableGraph

#: Largest difference between onnxruntime's and PyTorch's logits that an export may show.
MAX_LOGIT_DIFFERENCE = 1e-4

CHECKED_BATCHES = (1, 3, 8)

_SIDE = classification.INPUT_SIZE


def _graph(model: nn.Module, options: GraphOptions) -> ExportableGraph:
    images = as_input(random_images(2, _SIDE, _SIDE), options.input_kind)
    return ExportableGraph(
        module=ClassificationGraph(model, options.input_kind).eval(),
        inputs={"images": torch.from_numpy(images)},
        dynamic={"images": {0: "batch"}},
        dynamic_outputs={"logits": {0: "batch"}},
    )


def _checks(model: nn.Module, runner: Runner, options: GraphOptions) -> tuple[Check, ...]:
    checks = []
    for batch in CHECKED_BATCHES:
        images = random_images(batch, _SIDE, _SIDE)
        with torch.no_grad():
            expected = model(torch.from_numpy(normalise(images))).numpy()
        logits = runner.infer({"images": as_input(images, options.input_kind)})["logits"]
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


def _preprocessing(options: GraphOptions) -> Preprocessing:
    return Preprocessing(
        resize=f"short side {classification.RESIZED_SHORT_SIDE}, long side in proportion",
        interpolation="Pillow BICUBIC",
        crop=(_SIDE, _SIDE),
        mean=MEAN,
        std=STD,
        normalised_in_graph=options.input_kind is InputKind.UINT8,
    )


def _refuse(options: GraphOptions) -> None:
    if options.static:
        raise BadInput(f"--static is not for classification, whose input is {_SIDE}x{_SIDE} always")
    if options.nms_operator is not NmsOperator.LOOP:
        raise BadInput("--nms-op is for detection")
    if options.logits:
        raise BadInput("--logits is for segmentation; classification gives logits always")


RECIPE = ExportRecipe(_graph, (_SIDE, _SIDE), _checks, _preprocessing, _refuse)
