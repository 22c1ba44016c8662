"""How far two runs of one model agree, as sums over images, and the limits of an agreement.

Two agreements add up to the agreement over the images of both, in any order, and an agreement is
stored as JSON. So images are compared one by one and no image is kept in memory.

Each task lists its limits in its file of this package, by the precision of the candidate. A form of
the model that changes no precision (exported, simplified, served) is the same computation, may
differ by rounding alone, and keeps the limits of `fp32`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..manifest import Check, CheckKind, Record
from ..types import Precision, Task


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
        return self.sum_abs / self.elements if self.elements else 0.0

    @property
    def max_rel(self) -> float:
        """Largest difference over the reference's largest value, or over `unit`."""
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
        joined = {n: max(a[n], b[n]) if n in maxima else a[n] + b[n] for n in a}
        return TensorAgreement(**joined)


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
        joins: dict[str, Callable[..., Any]] = {"tensors": add, "counts": add, "worst": max}
        pairs = ("shares", "rates", "areas")
        joins |= dict.fromkeys(pairs, lambda x, y: (x[0] + y[0], x[1] + y[1]))
        joined = {}
        for field, join in joins.items():
            a, b = getattr(self, field), getattr(other, field)
            joined[field] = {**a, **b} | {key: join(a[key], b[key]) for key in a.keys() & b.keys()}
        return Agreement(task=self.task, images=self.images + other.images, **joined)

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the task by name, shares and rates as fractions of 1.

        Classification: `top1`, images with the same best class; `top5`, the reference's five best
            classes among the candidate's.
        Segmentation: `pixels` with the same class; `miou`, over the classes that either run gave.
        Detection: `matched`, the reference's detections found again; `new detections`, those of
            the candidate alone over the reference's; the numbers `missing` and `extra`; of what
            matched, the mean `box_iou` and `mask_iou` and the largest `box_px` and `score`.
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
    all_a, all_b = (np.asarray(tensor, np.float64).ravel() for tensor in (reference, candidate))
    finite = np.isfinite(all_a) & np.isfinite(all_b)
    a, b = all_a[finite], all_b[finite]
    gap = np.abs(a - b)
    return TensorAgreement(
        elements=a.size,
        non_finite=int((~np.isfinite(all_b)).sum()),
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


@dataclass(frozen=True)
class Limit:
    """A bound of one figure of an agreement: at most `value`, or at least. A model must keep a
    `release` limit to be released; a looser `breakage` limit only finds a broken conversion; no
    accuracy outweighs a `sanity` limit."""

    figure: str
    value: float
    at_least: bool = False
    kind: CheckKind = "release"


NON_FINITE = "non-finite values"
OTHER_SHAPES = "shapes that differ"
OTHER_LABELS = "labels that differ"
LARGEST_DIFFERENCE = "largest difference"

#: Limits of every comparison.
SANITY = (Limit(NON_FINITE, 0, kind="sanity"), Limit(OTHER_SHAPES, 0, kind="sanity"))

SAME_LABELS = Limit(OTHER_LABELS, 0)

#: Limits of tensors that the same code computes from the same image.
IDENTICAL = (Limit(LARGEST_DIFFERENCE, 0),)

#: The largest relative difference of an inner tensor of a converted file, by the file's precision:
#: the first tensor beyond it is where the conversion breaks.
INNER_TENSORS = {Precision.FP16: 0.02, Precision.INT8: 0.2}


def figures(agreement: Agreement) -> dict[str, float]:
    """Every figure of an agreement that a limit can be about, by name."""
    found = {OTHER_SHAPES: 0.0, OTHER_LABELS: 0.0, **agreement.figures}
    for name, tensor in agreement.tensors.items():
        found[f"{name}, max absolute"] = tensor.max_abs
        found[f"{name}, mean absolute"] = tensor.mean_abs
        found[f"{name}, max relative"] = tensor.max_rel
        found[f"{name}, cosine"] = tensor.cosine
    tensors = agreement.tensors.values()
    found[LARGEST_DIFFERENCE] = max((tensor.max_abs for tensor in tensors), default=0.0)
    return {**found, NON_FINITE: float(sum(tensor.non_finite for tensor in tensors))}


def checks(agreement: Agreement, limits: Iterable[Limit], what: str = "") -> tuple[Check, ...]:
    """Measure an agreement against limits and, after them, the sanity limits. The names of the
    checks begin with `what`, the two that were compared and the images."""
    found = figures(agreement)
    measured = [(each, found[each.figure]) for each in (*limits, *SANITY) if each.figure in found]
    return tuple(
        Check(
            name=f"{what}, {limit.figure}" if what else limit.figure,
            figure=figure,
            limit=limit.value,
            at_least=limit.at_least,
            kind=limit.kind,
            passed=figure >= limit.value if limit.at_least else figure <= limit.value,
        )
        for limit, figure in measured
    )


def room(checked: Iterable[Check]) -> float:
    """The least distance of a figure from its limit, as a share of what the limit allows."""
    return min(
        (c.figure - c.limit) / ((1 - c.limit) or 1)
        if c.at_least
        else (c.limit - c.figure) / (c.limit or 1)
        for c in checked
    )
