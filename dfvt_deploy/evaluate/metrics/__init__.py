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

from ...types import Task
from ..datasets.sample import Sample

#: The result of one image: the image's `id` and the metric's own fields, all of them plain data
#: that JSON can hold.
ImageResult: TypeAlias = Mapping[str, Any]

#: Positions in a list of results, int64 (k,). A position may occur several times.
Indices: TypeAlias = NDArray[np.int64]

#: A function from positions (None: all images) to the figures of the images there, by name.
Scorer: TypeAlias = Callable[[Indices | None], dict[str, float]]

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
    def image_result(self, answers: Mapping[str, NDArray[Any]], sample: Sample) -> dict[str, Any]:
        """Compare the answers for one image, the outputs of the served model (docs/serving.md) with
        or without the batch dimension, texts as bytes or str, with the truth about it. Raises
        StageFailed where the answers are for another image size than the truth."""

    @abstractmethod
    def counted(self, results: Sequence[ImageResult], names: Sequence[str]) -> Counted:
        """Prepare results, one an image, for being scored many times by figures like `names`."""

    def scorer(self, results: Sequence[ImageResult], names: Sequence[str] | None = None) -> Scorer:
        """The function that scores any of the results, by these figures or by all."""
        wanted, count = names or self.names, len(results)
        figures_of = self.counted(results, wanted)

        def score(indices: Indices | None = None) -> dict[str, float]:
            images = np.arange(count) if indices is None else indices
            figures = figures_of(np.bincount(images, minlength=count))
            return {name: figures[name] for name in wanted}

        return score

    def score(
        self, results: Sequence[ImageResult], indices: Indices | None = None
    ) -> dict[str, float]:
        """All figures of the images at the given positions, or of all images."""
        return self.scorer(results)(indices)


def as_text(value: Any) -> str:
    """A text of an answer as str; servers send UTF-8 bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def points(part: Any, whole: Any) -> float:
    """`part` as a percentage of `whole`, or nan if `whole` is 0."""
    return 100 * float(part) / float(whole) if whole else float("nan")


def metric_of(task: Task) -> Metric:
    """The metric that models of a task are judged by."""
    return task.entry("evaluate.metrics", "METRIC")
