"""Figures of accuracy from what models answer, whichever runner answered.

metric = METRICS[artifact.manifest.task]
results = [metric.image_result(answers, sample) for ...]
figures = metric.score(results)
"""

from __future__ import annotations

from collections.abc import Mapping

from ...types import Task
from .classification import Accuracy
from .detection import AveragePrecision
from .metric import ImageResult, Indices, Metric, Scorer
from .segmentation import MeanIoU

__all__ = ["METRICS", "ImageResult", "Indices", "Metric", "Scorer"]

METRICS: Mapping[Task, Metric] = {
    Task.CLASSIFICATION: Accuracy(),
    Task.DETECTION: AveragePrecision(),
    Task.SEGMENTATION: MeanIoU(),
}
