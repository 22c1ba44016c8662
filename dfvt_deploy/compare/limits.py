"""Limits of an agreement, and the checks that measure it against them.

Each task lists its limits in its file of this package, by the precision of the candidate. A form of
the model that changes no precision (exported, simplified, served) is the same computation, may
differ by rounding alone, and keeps the limits of `fp32`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..manifest import Check, CheckKind
from ..types import Precision
from .agreement import Agreement


@dataclass(frozen=True)
class Limit:
    """A bound of one figure of an agreement: at most `value`, or at least. A model must keep a
    `release` limit to be released; a looser `breakage` limit only finds a broken conversion; no
    accuracy outweighs a `sanity` limit."""

    figure: str
    value: float
    at_least: bool = False
    kind: CheckKind = "release"

    def keeps(self, figure: float) -> bool:
        """Whether a figure keeps the limit; a NaN keeps none."""
        return figure >= self.value if self.at_least else figure <= self.value


NON_FINITE = "non-finite values"
OTHER_SHAPES = "shapes that differ"
OTHER_LABELS = "labels that differ"
LARGEST_DIFFERENCE = "largest difference"

#: Limits of every comparison.
SANITY = (Limit(NON_FINITE, 0, kind="sanity"), Limit(OTHER_SHAPES, 0, kind="sanity"))

SAME_LABELS = Limit(OTHER_LABELS, 0)

#: Limits of tensors that the same code computes from the same image.
IDENTICAL = (Limit(LARGEST_DIFFERENCE, 0),)

#: Limits of each inner tensor of a converted file, by the file's precision: the first tensor
#: beyond its limit is where the conversion breaks.
INNER_TENSORS: Mapping[Precision, Limit] = {
    Precision.FP16: Limit("max relative", 0.02, kind="breakage"),
    Precision.INT8: Limit("max relative", 0.2, kind="breakage"),
}


def figures(agreement: Agreement) -> dict[str, float]:
    """Every figure of an agreement that a limit can be about, by name."""
    found = {OTHER_SHAPES: 0.0, OTHER_LABELS: 0.0, **agreement.figures}
    for name, tensor in agreement.tensors.items():
        found[f"{name}, max absolute"] = tensor.max_abs
        found[f"{name}, mean absolute"] = tensor.mean_abs
        found[f"{name}, max relative"] = tensor.max_rel
        found[f"{name}, cosine"] = tensor.cosine
    largest = max((tensor.max_abs for tensor in agreement.tensors.values()), default=0.0)
    return {**found, LARGEST_DIFFERENCE: largest, NON_FINITE: float(agreement.non_finite)}


def checks(agreement: Agreement, limits: Iterable[Limit], what: str = "") -> tuple[Check, ...]:
    """Measure an agreement against limits and, after them, the sanity limits. `what` names the two
    that were compared, and the images; it begins the name of each check."""
    found = figures(agreement)
    return tuple(
        Check(
            name=f"{what}, {limit.figure}" if what else limit.figure,
            figure=found[limit.figure],
            limit=limit.value,
            at_least=limit.at_least,
            kind=limit.kind,
            passed=limit.keeps(found[limit.figure]),
        )
        for limit in (*limits, *SANITY)
        if limit.figure in found
    )


def room(checked: Iterable[Check]) -> float:
    """The least distance of a figure from its limit, as a share of what the limit allows."""
    return min(_room(check) for check in checked)


def _room(check: Check) -> float:
    if check.at_least:
        return (check.figure - check.limit) / ((1 - check.limit) or 1)
    return (check.limit - check.figure) / (check.limit or 1)
