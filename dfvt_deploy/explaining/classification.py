"""Explaining a class of an image."""

from ..drawing import Answers
from ..tasks.classification import INPUT_SIZE, resized_size
from .task_explanation import Box, Ids, Names, Target, TaskExplanation


def _seen(width: int, height: int) -> Box:
    """The centre crop, in pixels of the image."""
    sides = resized_size(width, height)
    left, top = (round((side - INPUT_SIZE) / 2) for side in sides)
    x, y = width / sides[0], height / sides[1]
    right, bottom = left + INPUT_SIZE, top + INPUT_SIZE
    return round(left * x), round(top * y), round(right * x), round(bottom * y)


def _targets(answers: Answers, labels: Names, classes: Ids, _ranks: Ids, top: int) -> list[Target]:
    return [Target(labels[i], i) for i in classes or answers["class_ids"][:top].tolist()]


EXPLANATION = TaskExplanation(
    layer="stage1.context",
    seen=_seen,
    targets=_targets,
    score=lambda answers, target: float(
        answers["scores"][answers["class_ids"] == target.class_id].sum()
    ),
    logit=lambda model, images, _inputs, target: model(images)[0, target.class_id],
)
