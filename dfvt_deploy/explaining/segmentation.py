"""Explaining a class of a class map: all pixels that have it."""

from typing import Any

import cv2
import numpy as np

from ..drawing import Answers
from ..runners import Tensors
from ..tasks.segmentation import LOGIT_STRIDE, decode_class_map
from .task_explanation import Ids, Names, Target, TaskExplanation


def _targets(answers: Answers, labels: Names, classes: Ids, _ranks: Ids, top: int) -> list[Target]:
    """These classes as far as the map has them, else the largest ones."""
    class_map = decode_class_map(answers["class_map"].item())
    counts = np.bincount(class_map.ravel(), minlength=len(labels))
    chosen = classes or np.argsort(-counts, kind="stable")[:top].tolist()
    return [Target(labels[i], i, region=class_map == i) for i in chosen if counts[i]]


def _score(answers: Answers, target: Target) -> float:
    """The share of the class's pixels that still have it."""
    class_map = decode_class_map(answers["class_map"].item())
    return float((class_map[target.region] == target.class_id).mean())


def _logit(model: Any, images: Any, inputs: Tensors, target: Target) -> Any:
    """The mean logit of the class over its pixels."""
    import torch

    assert target.region is not None
    logits = model(images, torch.from_numpy(inputs["image_sizes"]))
    height, width = (max(1, int(side) // LOGIT_STRIDE) for side in inputs["image_sizes"][0])
    region = target.region.astype(np.float32)
    share = torch.from_numpy(cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA))
    return (logits[0, target.class_id, :height, :width] * share).sum() / share.sum()


EXPLANATION = TaskExplanation(_targets, _score, _logit)
