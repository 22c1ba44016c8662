"""Comparison of two runs of one model: how far they agree, and whether that is enough.

`comparison_of(task)` gives the `TaskComparison` in the task's file of this package: how outputs and
answers are compared, and which limits hold for them. `Comparison` compares one runner with another
on given feeds, and `agreement.checks` measures the sums of either (`agreement.Agreement`) against
limits.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from ..runners import Runner, Tensors
from ..types import Precision, Task
from .agreement import OTHER_LABELS, OTHER_SHAPES, Agreement, Limit, total


@dataclass(frozen=True)
class TaskComparison:
    """How two runs of a task's model are compared, and how far they may differ.

    compare_outputs: compares two networks' outputs, named as in an exported graph, for the same
        images; it also takes the valid sizes of the images, int64 (N, 2), or None where all of the
        canvas is valid. It raises ValueError where the two cannot be compared.
    compare_answers: the same for what two served models answer, batch dimension included.
    limits, answer_limits: the release limits of outputs and of answers, by the candidate's
        precision. breakage: looser limits of outputs that find a broken file, where there are any.
    same_code_limits: for answers that the same code makes of the same tensors.
    class_counts: counts, for each class id, what the answers to one image give it, such as pixels.
    answer_change: measures how much the answers to one image changed, for sorting; `change` adds
        other labels and another shape.
    share, share_title: the figure that stands for agreement where an image has no truth, and what
        it is the share of.
    """

    task: Task
    compare_outputs: Callable[[Tensors, Tensors, NDArray[Any] | None], Agreement]
    compare_answers: Callable[[Tensors, Tensors], Agreement]
    limits: Mapping[Precision, tuple[Limit, ...]]
    answer_limits: Mapping[Precision, tuple[Limit, ...]]
    same_code_limits: tuple[Limit, ...]
    class_counts: Callable[[Tensors], Mapping[int, int]]
    answer_change: Callable[[Agreement], float]
    share: str
    share_title: str
    breakage: Mapping[Precision, tuple[Limit, ...]] = field(default_factory=dict)

    def outputs(
        self, reference: Tensors, candidate: Tensors, image_sizes: NDArray[Any] | None = None
    ) -> Agreement:
        """Compare two networks' outputs for the same images; `image_sizes`, int64 (N, 2), are the
        valid heights and widths within the canvas. Outputs that cannot be compared, because a shape
        or a name differs, are counted and keep no limits."""
        with suppress(ValueError):
            if all(n in candidate and v.shape == candidate[n].shape for n, v in reference.items()):
                return self.compare_outputs(reference, candidate, image_sizes)
        return self._other_shape()

    def answers(self, reference: Tensors, candidate: Tensors) -> Agreement:
        """Compare what two served models answer to the same images, as `outputs` does."""
        with suppress(ValueError):
            return self.compare_answers(reference, candidate)
        return self._other_shape()

    def change(self, agreement: Agreement) -> float:
        """Measure how much the answers to one image changed, for sorting images."""
        if agreement.counts.get(OTHER_SHAPES):
            return 1000.0
        return agreement.counts.get(OTHER_LABELS, 0.0) + self.answer_change(agreement)

    def breakage_limits(
        self, precision: Precision, min_agreement: float | None = None
    ) -> tuple[Limit, ...]:
        """Limits that find a broken file of this precision; release limits where it has no others.
        `min_agreement`, 0 to 1, replaces the limit of the figure `share`."""
        limits = self.breakage.get(precision, self.limits[precision])
        given = {} if min_agreement is None else {self.share: min_agreement}
        return tuple(replace(x, value=given.get(x.figure, x.value)) for x in limits)

    def _other_shape(self) -> Agreement:
        return Agreement(task=self.task, images=1, counts={OTHER_SHAPES: 1.0})


def comparison_of(task: Task) -> TaskComparison:
    """How two runs of a model of this task are compared."""
    return task.entry("compare", "COMPARISON")


class Comparison:
    """The outputs of a reference on some feeds, inputs by name of a batch of images each, for the
    comparison with any candidate. Raises StageFailed where the reference cannot run."""

    def __init__(self, task: Task, feeds: Iterable[Tensors], reference: Runner) -> None:
        self.task, self.feeds = task, list(feeds)
        self._expected = [reference.infer(feed) for feed in self.feeds]

    def agreement(self, candidate: Runner) -> Agreement:
        """Run a candidate on all feeds and compare its outputs with the reference's."""
        compare = comparison_of(self.task).outputs
        pairs = zip(self.feeds, self._expected, strict=True)
        found = (compare(y, candidate.infer(x), x.get("image_sizes")) for x, y in pairs)
        return total(self.task, found)
