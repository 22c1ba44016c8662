"""The stages of a model's way from PyTorch to a served answer.

Each stage takes an image's outputs of the stage before it and replaces one part of them: the
network's inputs, the network's outputs, or the answers. So a difference between two neighbours is
the later stage's doing, and a stage's figures count everything up to it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from ..compare import comparison_of
from ..compare.agreement import OTHER_SHAPES, Agreement, Limit, compare_tensors
from ..runners import Tensors
from ..types import Precision, Task


@dataclass(frozen=True)
class StageOutputs:
    """One image after a stage, batch dimension included: the bytes of its file, the prepared
    tensors (see `Pipeline.prepare`), the network's outputs, and the answers, named as the
    ensemble's outputs."""

    encoded: bytes
    inputs: Tensors
    outputs: Tensors = field(default_factory=dict)
    answers: Tensors = field(default_factory=dict)


Step: TypeAlias = Callable[[StageOutputs], StageOutputs]


@dataclass(frozen=True)
class Stage:
    """One form of the model, or one part of its serving.

    source, title: the name of the stage before it, None for the reference, and what runs, for
        people.
    step, part: makes the stage's outputs from those of the stage before it, and the part of them
        that it replaces and is compared by.
    step_limits: limits of agreement with the stage before it.
    precision: what it computes in, which decides the limits of agreement with the reference.
    changes: whether the precision or the decoding is another than that of the stage before it.
    fast_decode: whether images are decoded at reduced scale, for which the limits of INT8 hold.
    file: the exported model's file that it runs. The stage's verdict is about that file.
    """

    task: Task
    name: str
    source: str | None
    title: str
    step: Step
    part: Literal["inputs", "outputs", "answers"]
    step_limits: tuple[Limit, ...]
    precision: Precision = Precision.FP32
    changes: bool = False
    file: str | None = None
    fast_decode: bool = False

    def compare_step(self, before: StageOutputs, after: StageOutputs) -> Agreement:
        """Compare the stage's outputs with those of the stage before it."""
        if self.part == "inputs":
            return _compare_inputs(self.task, before.inputs, after.inputs)
        return self.compare_total(before, after)

    def compare_total(self, reference: StageOutputs, after: StageOutputs) -> Agreement:
        """Compare the stage's network outputs, or its answers, with those of the reference."""
        comparison = comparison_of(self.task)
        if self.part == "outputs":
            sizes = reference.inputs.get("image_sizes")
            return comparison.outputs(reference.outputs, after.outputs, sizes)
        return comparison.answers(reference.answers, after.answers)

    @property
    def total_limits(self) -> tuple[Limit, ...]:
        """Limits of agreement with the reference."""
        precision = Precision.INT8 if self.fast_decode else self.precision
        comparison = comparison_of(self.task)
        of_part = comparison.limits if self.part == "outputs" else comparison.answer_limits
        return of_part[precision]


def way_to(name: str, stages: Iterable[Any]) -> list[Any]:
    """The stages, or their results, from the reference to the one of this name."""
    by_name = {stage.name: stage for stage in stages}
    way = [by_name[name]]
    while way[0].source is not None:
        way.insert(0, by_name[way[0].source])
    return way


def prepared_by(prepare: Callable[[bytes], Tensors], source: Stage) -> Step:
    """A step that runs another preprocessing alone, and the network of a stage where the tensors
    differ from those of that stage."""

    def step(before: StageOutputs) -> StageOutputs:
        inputs, old = prepare(before.encoded), before.inputs
        same = old.keys() == inputs.keys() and all(
            value.dtype == inputs[name].dtype and np.array_equal(value, inputs[name])
            for name, value in old.items()
        )
        return before if same else source.step(replace(before, inputs=inputs))

    return step


def _compare_inputs(task: Task, reference: Tensors, candidate: Tensors) -> Agreement:
    tensors = {
        name: compare_tensors(value, candidate[name])
        for name, value in reference.items()
        if name in candidate
        and (value.shape, value.dtype) == (candidate[name].shape, candidate[name].dtype)
    }
    counts = {OTHER_SHAPES: float(len(reference) - len(tensors))}
    return Agreement(task=task, images=1, tensors=tensors, counts=counts)
