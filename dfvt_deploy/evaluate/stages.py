"""The stages of a model's way from PyTorch to a served answer.

Each stage takes an image's outputs of the stage before it and replaces one part of them: the
network's inputs, the network's outputs, or the answers. So a difference between two neighbours is
the later stage's doing, and a stage's figures count everything up to it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from ..compare import comparison_of
from ..compare.agreement import Agreement, compare_tensors
from ..compare.limits import OTHER_SHAPES, Limit
from ..pipeline import Pipeline
from ..runners import Runner, Tensors
from ..types import Precision, StringEnum, Task

REFERENCE = "pytorch"
ONNX = "onnx"
SIMPLIFIED = "simplified"
BFLOAT16 = "openvino bf16"
FAST_DECODE = " fast-decode"
PREPROCESS = "triton preprocess"
NETWORK = "triton network"
POSTPROCESS = "triton postprocess"
ENSEMBLE = "triton ensemble"


@dataclass(frozen=True)
class StageOutputs:
    """One image after a stage, batch dimension included: the bytes of its file, the prepared
    tensors (see `Pipeline.prepare`), the network's outputs, and the answers, named as the
    ensemble's outputs."""

    encoded: bytes
    inputs: Tensors
    outputs: Tensors
    answers: Tensors


Step: TypeAlias = Callable[[StageOutputs], StageOutputs]


class Part(StringEnum):
    """The part of a `StageOutputs` that a stage replaces and is compared by."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"
    ANSWERS = "answers"


@dataclass(frozen=True)
class Stage:
    """One form of the model, or one part of its serving.

    source, title: the name of the stage before it, None for the reference, and what runs, for
        people.
    step, part: makes the stage's outputs from those of the stage before it, and what it replaces.
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
    part: Part
    step_limits: tuple[Limit, ...]
    precision: Precision = Precision.FP32
    changes: bool = False
    file: str | None = None
    fast_decode: bool = False

    def compare_step(self, before: StageOutputs, after: StageOutputs) -> Agreement:
        """Compare the stage's outputs with those of the stage before it."""
        if self.part is Part.INPUTS:
            return _compare_inputs(self.task, before.inputs, after.inputs)
        return self.compare_total(before, after)

    def compare_total(self, reference: StageOutputs, after: StageOutputs) -> Agreement:
        """Compare the stage's network outputs, or its answers, with those of the reference."""
        comparison = comparison_of(self.task)
        if self.part is Part.OUTPUTS:
            sizes = reference.inputs.get("image_sizes")
            return comparison.outputs(reference.outputs, after.outputs, sizes)
        return comparison.answers(reference.answers, after.answers)

    @property
    def total_limits(self) -> tuple[Limit, ...]:
        """Limits of agreement with the reference."""
        of_answers = self.part is not Part.OUTPUTS
        precision = Precision.INT8 if self.fast_decode else self.precision
        return comparison_of(self.task).release_limits(precision, of_answers=of_answers)


def network_step(pipeline: Pipeline, runner: Runner) -> Step:
    """Run the network with another runner."""

    def step(before: StageOutputs) -> StageOutputs:
        outputs = runner.infer(pipeline.feed(before.inputs))
        answers = pipeline.postprocess(before.inputs, outputs)
        return replace(before, outputs=outputs, answers=answers)

    return step


def preprocess_step(source: Stage, prepare: Callable[[Tensors], Tensors]) -> Step:
    """Another preprocessing alone, and the network of `source` where the tensors differ."""

    def step(before: StageOutputs) -> StageOutputs:
        inputs, old = prepare(image_request(before.encoded)), before.inputs
        if old.keys() == inputs.keys() and all(
            value.dtype == inputs[name].dtype and np.array_equal(value, inputs[name])
            for name, value in old.items()
        ):
            return before
        return source.step(replace(before, inputs=inputs))

    return step


def postprocess_step(task: Task, runner: Runner) -> Step:
    """The server's postprocessing alone, on the outputs of the server's network."""
    from ..serving.tasks import served_task

    names = served_task(task).network_outputs

    def step(before: StageOutputs) -> StageOutputs:
        sizes = {name: value for name, value in before.inputs.items() if name != "images"}
        outputs = {name: before.outputs[name] for name in names}
        return replace(before, answers=runner.infer({**outputs, **sizes}))

    return step


def ensemble_step(runner: Runner) -> Step:
    """The served ensemble: an encoded image to answers in one request."""
    return lambda before: replace(before, answers=runner.infer(image_request(before.encoded)))


def image_request(encoded: bytes) -> Tensors:
    """The ensemble's and the preprocessing's input for one encoded image, BYTES (1, 1)."""
    return {"image": np.array([[encoded]], dtype=np.object_)}


def _compare_inputs(task: Task, reference: Tensors, candidate: Tensors) -> Agreement:
    tensors = {}
    other_shapes = 0.0
    for name, value in reference.items():
        other = candidate.get(name)
        if other is None or other.shape != value.shape or other.dtype != value.dtype:
            other_shapes += 1
        else:
            tensors[name] = compare_tensors(value, other)
    return Agreement(task=task, images=1, tensors=tensors, counts={OTHER_SHAPES: other_shapes})
