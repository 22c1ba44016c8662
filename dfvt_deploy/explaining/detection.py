"""Explaining one detection: the class of its box."""

from typing import Any

from ..compare.detection import box_iou
from ..drawing import Answers
from ..runners import Tensors
from ..tasks.detection import result_from_answers
from .task_explanation import Ids, Names, Target, TaskExplanation


def _targets(answers: Answers, labels: Names, classes: Ids, ranks: Ids, top: int) -> list[Target]:
    """The detections of these ranks, the best of each of these classes, or the best of all."""
    found = result_from_answers(answers)
    ids = found.labels.tolist()
    rows = [rank - 1 for rank in ranks] + [ids.index(i) for i in classes if i in ids]
    if not (ranks or classes):
        rows = list(range(top))
    boxes = found.boxes.tolist()
    return [
        Target(f"{labels[ids[i]]} #{i + 1}", ids[i], tuple(boxes[i])) for i in rows if i < len(ids)
    ]


def _score(answers: Answers, target: Target) -> float:
    """The best product of score and overlap (IoU) among the detections of the class."""
    found = result_from_answers(answers)
    same = found.labels == target.class_id
    assert target.box is not None
    overlaps = box_iou([target.box], found.boxes[same])[0]
    return float((found.scores[same] * overlaps).max(initial=0))


def _logit(model: Any, images: Any, inputs: Tensors, target: Target) -> Any:
    """The logit that the box head gives the class for the detection's own box."""
    import torch

    from ..models.detection import BOX_BINS
    from ..models.roi_align import pyramid_roi_align
    from ..models.rpn import STRIDES
    from ..models.task_model import zero_outside

    sizes, originals = (torch.from_numpy(inputs[f"{x}_sizes"]) for x in ("image", "original"))
    features = model.neck(model.backbone(zero_outside(images, sizes)))[:4]
    box = torch.tensor([[target.box]]) * (sizes / originals).float()[:, [1, 0, 1, 0]]
    logits, _ = model.roi_head.bbox_head(pyramid_roi_align(features, STRIDES[:4], box, BOX_BINS))
    return logits[0, target.class_id]


EXPLANATION = TaskExplanation(_targets, _score, _logit)
