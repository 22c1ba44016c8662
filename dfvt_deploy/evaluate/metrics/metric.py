"""What a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..datasets import Sample

#: What became of one image: plain data that JSON takes, with the image's `id`.
ImageResult: TypeAlias = Mapping[str, Any]

#: Positions of images among the results, repetition allowed, integers (k,).
Indices: TypeAlias = NDArray[np.int64]

#: Figures by name of the images at these positions, of all for None.
Scorer: TypeAlias = Callable[[Indices | None], dict[str, float]]


class Metric(Protocol):
    """Turns answers into results for each image, and results into figures.

    A figure is in points, 0 to 100, higher being better; nan where nothing could be counted.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The figures; the first is the gate's."""

    @property
    def resamples(self) -> int:
        """How often the gate draws."""

    def image_result(self, answers: Mapping[str, NDArray[Any]], sample: Sample) -> dict[str, Any]:
        """What became of one image.

        answers: the outputs of the served model for the image (docs/serving.md), with or without
            the batch dimension, texts as bytes or str.

        Raises:
            StageFailed: answers of another image size than the truth's.
        """

    def scorer(self, results: Sequence[ImageResult], names: Sequence[str] | None = None) -> Scorer:
        """Prepare results, in the dataset's order, to be scored often. `names`: figures wanted."""

    def score(
        self, results: Sequence[ImageResult], indices: Indices | None = None
    ) -> dict[str, float]:
        """All figures of the images at these positions; of all by default."""


class ScoresByScorer(ABC):
    """`score` of a metric that has a `scorer`."""

    @abstractmethod
    def scorer(self, results: Sequence[ImageResult], names: Sequence[str] | None = None) -> Scorer:
        """See `Metric.scorer`."""

    def score(
        self, results: Sequence[ImageResult], indices: Indices | None = None
    ) -> dict[str, float]:
        return self.scorer(results)(indices)


def as_text(value: Any) -> str:
    """A string of an answer, which a server sends as UTF-8 bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def share(part: float, whole: float) -> float:
    """Points, nan of nothing."""
    return 100 * float(part) / float(whole) if whole else float("nan")
