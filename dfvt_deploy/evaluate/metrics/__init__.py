"""Accuracy figures, computed from a model's answers whatever runner gave them.

    metric = metric_of(artifact.manifest.task)
    results = [metric.image_result(answers, sample) for answers, sample in ...]
    figures = metric.score(results)

The file of a task holds the task's metric as `METRIC`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...runners import Tensors
from ...types import Task
from ..datasets.sample import Sample

#: The results of images: an image's `id` and the metric's own fields, all of them plain data that
#: JSON can hold.
Results: TypeAlias = Sequence[Mapping[str, Any]]

#: A function from how often each image is counted, int64 (n,), to figures by name.
Counted: TypeAlias = Callable[[NDArray[np.int64]], dict[str, float]]


class Metric(ABC):
    """Turns a model's answers into one result an image, and results into figures. A figure is in
    points from 0 to 100, higher is better, and nan if nothing could be counted. The gate decides by
    the first of `names`, with `resamples` bootstrap draws."""

    names: ClassVar[tuple[str, ...]]
    resamples: ClassVar[int]

    @abstractmethod
    def chance(self, num_classes: int) -> float:
        """The first figure, in points, that a model reaches which does not look at the image."""

    @abstractmethod
    def image_result(self, answers: Tensors, sample: Sample) -> dict[str, Any]:
        """Compare the answers for one image, the outputs of the served model (docs/serving.md) with
        or without the batch dimension, texts as bytes or str, with the truth about it. Raises
        StageFailed where the answers are for another image size than the truth."""

    @abstractmethod
    def counted(self, results: Results, names: Sequence[str]) -> Counted:
        """Prepare results, one an image, for being scored many times, at least by these figures."""

    def score(self, results: Results) -> dict[str, float]:
        """All figures of the images, each counted once, in the order of `names`."""
        figures = self.counted(results, self.names)(np.ones(len(results), np.int64))
        return {name: figures[name] for name in self.names}


def points(part: Any, whole: Any) -> float:
    """`part` as a percentage of `whole`, or nan if `whole` is 0."""
    return 100 * float(part) / float(whole) if whole else float("nan")


def metric_of(task: Task) -> Metric:
    """The metric that models of a task are judged by."""
    return task.entry("evaluate.metrics", "METRIC")
