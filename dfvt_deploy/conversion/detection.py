"""How Mask R-CNN is exported and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..artifact import Check, Preprocessing
from ..data import SAMPLES
from ..errors import BadInput
from ..evaluate.detections import DetectionComparison, compare_detections
from ..models.detection_graph import DetectionGraph
from ..models.mask_rcnn import MaskRCNN
from ..models.roi_heads import PaddedDetections
from ..runners import Runner
from ..tasks import detection
from ..tasks.dense import SIZE_MULTIPLE
from ..tasks.images import normalise
from ..types import InputKind, Nms, NmsOperator
from .recipe import ExportRecipe, GraphOptions, as_input, dense_preprocessing
from .to_onnx import ExportableGraph

#: Share of detections that onnxruntime or PyTorch alone may find: near ties at the cut, or at the
#: thresholds of score and overlap, can fall either way.
MAX_UNMATCHED = 0.01

#: A detection found again scores alike to within this.
MAX_SCORE_DIFFERENCE = 1e-4

#: Largest difference of a mask's probability.
MAX_MASK_DIFFERENCE = 1e-3

#: Batch and canvas of the comparisons of a dynamic export. None is the example it was traced at.
CHECKED_CANVASES = ((1, 64, 96), (2, 160, 128), (1, 224, 320))

#: Height and width at which the paper counts multiply-accumulates.
COUNTED_SIZE = (800, 1280)

_EXAMPLE = (128, 192)

#: The first of each batch is padded, by these pixels at the bottom and the right.
_PADDING = (5, 17)


@dataclass(frozen=True)
class _Found:
    boxes: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[Any]


def _photographs(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """The sample images at one size, uint8 RGB (N, H, W, 3): there is something to detect."""
    files = sorted(SAMPLES.glob("*.jpg"))
    images = []
    for i in range(batch):
        with Image.open(files[i % len(files)]) as image:
            images.append(np.asarray(image.convert("RGB").resize((width, height))))
    return np.stack(images)


def _feed(
    batch: int, height: int, width: int, options: GraphOptions
) -> tuple[dict[str, NDArray[Any]], torch.Tensor, torch.Tensor]:
    images = _photographs(batch, height, width)
    sizes = np.tile(np.array([height, width], np.int64), (batch, 1))
    sizes[0] -= _PADDING
    feed = {"images": as_input(images, options.input_kind), "image_sizes": sizes}
    return feed, torch.from_numpy(normalise(images)), torch.from_numpy(sizes)


def _graph(model: MaskRCNN, options: GraphOptions) -> ExportableGraph:
    height, width = options.static or _EXAMPLE
    if options.nms_operator is NmsOperator.ONNX and model.nms is Nms.SOFT:
        raise BadInput("ONNX has no operator for soft NMS; use --nms-op loop, or --nms hard")
    feed, _, _ = _feed(2, height, width, options)
    rows, cols = (1, 2) if options.input_kind is InputKind.UINT8 else (2, 3)
    images = {0: "batch"}
    if options.static is None:
        images |= {rows: "height", cols: "width"}
    return ExportableGraph(
        module=DetectionGraph(model, options.input_kind, options.nms_operator).eval(),
        inputs={name: torch.from_numpy(value) for name, value in feed.items()},
        dynamic={"images": images, "image_sizes": {0: "batch"}},
        dynamic_outputs={name: {0: "batch"} for name in PaddedDetections._fields},
        multiples={"height": SIZE_MULTIPLE, "width": SIZE_MULTIPLE},
        loops=True,
    )


def _checks(model: MaskRCNN, runner: Runner, options: GraphOptions) -> tuple[Check, ...]:
    compared: list[DetectionComparison] = []
    canvases = [(b, *options.static) for b in (1, 2)] if options.static else CHECKED_CANVASES
    for batch, height, width in canvases:
        feed, images, sizes = _feed(batch, height, width, options)
        found = runner.infer(feed)
        with torch.no_grad():
            expected = model.detect(images, sizes)
        for i in range(batch):
            one = _Found(*(part[i].numpy() for part in expected[:3]))
            other = _Found(*(found[name][i] for name in PaddedDetections._fields[:3]))
            used = one.labels >= 0, other.labels >= 0
            compared.append(
                compare_detections(
                    _Found(*(part[used[0]] for part in vars(one).values())),
                    _Found(*(part[used[1]] for part in vars(other).values())),
                    masks=(expected.masks[i].numpy()[used[0]], found["masks"][i][used[1]]),
                )
            )
    total = sum(len(c.matches) + len(c.missing) for c in compared)
    extra = sum(len(c.extra) for c in compared)
    good = sum(int((c.score_differences <= MAX_SCORE_DIFFERENCE).sum()) for c in compared)
    unmatched = (total - good + extra) / max(total, 1)
    mask = max(float(c.mask_differences.max(initial=0)) for c in compared)
    where = ", ".join(f"{b} of {h}x{w}" for b, h, w in canvases)
    return (
        Check(
            name=f"onnxruntime against PyTorch, {total} detections, batches {where}, "
            "share not matched",
            figure=unmatched,
            limit=MAX_UNMATCHED,
            passed=unmatched <= MAX_UNMATCHED,
        ),
        Check(
            name="onnxruntime against PyTorch, masks of the matched, max abs",
            figure=mask,
            limit=MAX_MASK_DIFFERENCE,
            passed=mask <= MAX_MASK_DIFFERENCE,
        ),
    )


def _preprocessing(options: GraphOptions) -> Preprocessing:
    return dense_preprocessing(detection.LONG_SIDE, detection.SHORT_SIDE, options)


def _refuse(options: GraphOptions) -> None:
    if options.logits:
        raise BadInput("--logits is for segmentation; detection gives boxes, scores and masks")


RECIPE = ExportRecipe(_graph, COUNTED_SIZE, _checks, _preprocessing, _refuse)
