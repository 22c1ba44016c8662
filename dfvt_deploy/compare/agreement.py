"""How far two runs of one model agree, as sums over images.

Two agreements add up to the agreement over the images of both, in any order, and an agreement is
stored as JSON. So images are compared one by one and no image is kept in memory.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..manifest import Record
from ..types import Task


class TensorAgreement(Record):
    """Sums over the elements of one tensor that are finite in both runs; `non_finite` are those
    that are not in the candidate. Differences are relative to the largest value of the reference,
    but to no less than `unit`."""

    elements: int = 0
    non_finite: int = 0
    sum_abs: float = 0
    max_abs: float = 0
    max_reference: float = 0
    dot: float = 0
    reference_squared: float = 0
    candidate_squared: float = 0
    unit: float = 0

    @property
    def mean_abs(self) -> float:
        """Mean absolute difference."""
        return self.sum_abs / self.elements if self.elements else 0.0

    @property
    def max_rel(self) -> float:
        """Largest absolute difference over the reference's largest absolute value, or over
        `unit`."""
        scale = max(self.max_reference, self.unit)
        return self.max_abs / scale if scale else self.max_abs

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two tensors; 1 if both are zero."""
        lengths = np.sqrt(self.reference_squared) * np.sqrt(self.candidate_squared)
        if lengths == 0:
            return float(self.reference_squared == self.candidate_squared)
        return float(np.clip(self.dot / lengths, -1, 1))

    def __add__(self, other: "TensorAgreement") -> "TensorAgreement":
        maxima = ("max_abs", "max_reference", "unit")
        a, b = dict(self), dict(other)
        return TensorAgreement(
            **{name: max(a[name], b[name]) if name in maxima else a[name] + b[name] for name in a}
        )


class Agreement(Record):
    """How a candidate agrees with a reference over some images.

    tensors: floating-point tensors by name. A detector's are those of matched detections.
    shares: part and whole of what agrees, such as pixels of equal class and all pixels.
    rates: part and whole of what disagrees, such as detections that are new and the reference's.
    counts: numbers that add up, such as missing detections.
    worst: the largest difference of its kind over all images.
    areas: by class id, pixels that both runs gave it and pixels that either did (segmentation).
    """

    task: Task
    images: int
    tensors: dict[str, TensorAgreement] = Field(default_factory=dict)
    shares: dict[str, tuple[float, float]] = Field(default_factory=dict)
    rates: dict[str, tuple[float, float]] = Field(default_factory=dict)
    counts: dict[str, float] = Field(default_factory=dict)
    worst: dict[str, float] = Field(default_factory=dict)
    areas: dict[int, tuple[float, float]] = Field(default_factory=dict)

    def __add__(self, other: "Agreement") -> "Agreement":
        if self.task is not other.task:
            raise ValueError(f"agreements of {self.task} and {other.task} do not add up")
        return Agreement(
            task=self.task,
            images=self.images + other.images,
            tensors=_merged(self.tensors, other.tensors, add),
            shares=_merged(self.shares, other.shares, _add_pairs),
            rates=_merged(self.rates, other.rates, _add_pairs),
            counts=_merged(self.counts, other.counts, add),
            worst=_merged(self.worst, other.worst, max),
            areas=_merged(self.areas, other.areas, _add_pairs),
        )

    @property
    def non_finite(self) -> int:
        """Elements of the candidate's tensors that are not finite."""
        return sum(tensor.non_finite for tensor in self.tensors.values())

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the task by name, shares and rates as fractions of 1.

        Classification: `top1`, the share of images with the same best class; `top5`, the mean
            share of the reference's five best classes among the candidate's.
        Segmentation: `pixels`, the share with the same class; `miou`, the mean IoU of the classes
            that either run gave.
        Detection: `matched`, the share of the reference's detections found again; `new
            detections`, those found by the candidate alone over the reference's; `missing` and
            `extra`, the numbers of both; over the matched detections `box_iou` and `mask_iou`, the
            mean IoUs, and `box_px` and `score`, the largest differences.
        """
        found = {
            name: part / whole if whole else 1.0 for name, (part, whole) in self.shares.items()
        }
        if self.areas:
            found["miou"] = float(np.mean([both / either for both, either in self.areas.values()]))
        rates = {name: part / max(whole, 1) for name, (part, whole) in self.rates.items()}
        return {**found, **rates, **self.counts, **self.worst}


def compare_tensors(
    reference: NDArray[Any], candidate: NDArray[Any], unit: float = 0
) -> TensorAgreement:
    """Compare two float tensors of one shape, in float64; `unit` as in `TensorAgreement`."""
    a, b = (np.asarray(tensor, np.float64).ravel() for tensor in (reference, candidate))
    finite = np.isfinite(a) & np.isfinite(b)
    non_finite = int((~np.isfinite(b)).sum())
    a, b = a[finite], b[finite]
    gap = np.abs(a - b)
    return TensorAgreement(
        elements=a.size,
        non_finite=non_finite,
        sum_abs=float(gap.sum()),
        max_abs=float(gap.max(initial=0)),
        max_reference=float(np.abs(a).max(initial=0)),
        dot=float(a @ b),
        reference_squared=float(a @ a),
        candidate_squared=float(b @ b),
        unit=unit,
    )


def total(task: Task, agreements: Iterable[Agreement]) -> Agreement:
    """Add agreements up; without any, the agreement is one over no images."""
    return reduce(add, agreements, Agreement(task=task, images=0))


def _add_pairs(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] + b[0], a[1] + b[1]


def _merged(a: Mapping[Any, Any], b: Mapping[Any, Any], join: Callable[..., Any]) -> dict[Any, Any]:
    return {**a, **b} | {key: join(a[key], b[key]) for key in a.keys() & b.keys()}
