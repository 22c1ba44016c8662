"""How UPerNet is exported and checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..artifact import Check, Preprocessing
from ..errors import BadInput
from ..models.segmentation_graph import SegmentationGraph
from ..models.upernet import UPerNet
from ..runners import Runner
from ..tasks import segmentation
from ..tasks.dense import SIZE_MULTIPLE
from ..tasks.images import normalise
from ..types import InputKind, NmsOperator
from .recipe import ExportRecipe, GraphOptions, as_input, dense_preprocessing, random_images
from .to_onnx import ExportableGraph

#: Share of pixels at which onnxruntime and PyTorch may choose another class.
MAX_OTHER_PIXELS = 1e-3

#: Batch and canvas of the comparisons of a dynamic export. None is the example it was traced at.
CHECKED_CANVASES = ((1, 64, 64), (2, 96, 224), (1, 256, 128))

_EXAMPLE = (128, 192)

#: The first of each batch is padded, by these pixels at the bottom and the right.
_PADDING = (5, 17)


def _feed(
    batch: int, height: int, width: int, options: GraphOptions
) -> tuple[dict[str, NDArray[Any]], torch.Tensor, torch.Tensor]:
    images = random_images(batch, height, width)
    sizes = np.tile(np.array([height, width], np.int64), (batch, 1))
    sizes[0] -= _PADDING
    feed = {"images": as_input(images, options.input_kind), "image_sizes": sizes}
    return feed, torch.from_numpy(normalise(images)), torch.from_numpy(sizes)


def _graph(model: UPerNet, options: GraphOptions) -> ExportableGraph:
    height, width = options.static or _EXAMPLE
    feed, _, _ = _feed(2, height, width, options)
    rows, cols = (1, 2) if options.input_kind is InputKind.UINT8 else (2, 3)
    images, class_map, logits = {0: "batch"}, {0: "batch"}, {0: "batch"}
    if options.static is None:
        images |= {rows: "height", cols: "width"}
        class_map |= {1: "height", 2: "width"}
        logits |= {2: "logit_height", 3: "logit_width"}
    return ExportableGraph(
        module=SegmentationGraph(model, options.input_kind, with_logits=options.logits).eval(),
        inputs={name: torch.from_numpy(value) for name, value in feed.items()},
        dynamic={"images": images, "image_sizes": {0: "batch"}},
        dynamic_outputs={"class_map": class_map} | ({"logits": logits} if options.logits else {}),
        multiples={"height": SIZE_MULTIPLE, "width": SIZE_MULTIPLE},
    )


def _checks(model: UPerNet, runner: Runner, options: GraphOptions) -> tuple[Check, ...]:
    checks = []
    canvases = [(b, *options.static) for b in (1, 2)] if options.static else CHECKED_CANVASES
    for batch, height, width in canvases:
        feed, images, sizes = _feed(batch, height, width, options)
        with torch.no_grad():
            logits = model(images, sizes)
            enlarged = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        finite = bool(torch.isfinite(logits).all())
        found = runner.infer(feed)["class_map"]
        other = float(np.mean(found != enlarged.argmax(1).numpy())) if finite else float("nan")
        checks.append(
            Check(
                name="onnxruntime against PyTorch, class map, "
                f"batch {batch} of {height}x{width}, share of other pixels",
                figure=other,
                limit=MAX_OTHER_PIXELS,
                passed=other <= MAX_OTHER_PIXELS,
            )
        )
    return tuple(checks)


def _preprocessing(options: GraphOptions) -> Preprocessing:
    return dense_preprocessing(segmentation.LONG_SIDE, segmentation.SHORT_SIDE, options)


def _refuse(options: GraphOptions) -> None:
    if options.nms_operator is not NmsOperator.LOOP:
        raise BadInput("--nms-op is for detection")


RECIPE = ExportRecipe(
    _graph, (segmentation.SHORT_SIDE, segmentation.LONG_SIDE), _checks, _preprocessing, _refuse
)
