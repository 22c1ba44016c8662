"""Accuracy figures, computed from a model's answers whatever runner gave them.

    metric = metric_of(artifact.manifest.task)
    results = [metric.image_result(answers, sample) for answers, sample in ...]
    figures = metric.score(results)

The file of a task holds the task's metric as `METRIC`.
"""

from ...task_entries import entry
from ...types import Task
from .metric import ImageResult, Indices, Metric, Scorer

__all__ = ["ImageResult", "Indices", "Metric", "Scorer", "metric_of"]


def metric_of(task: Task) -> Metric:
    """The metric that models of a task are judged by."""
    metric: Metric = entry("evaluate.metrics", task, "METRIC")
    return metric
