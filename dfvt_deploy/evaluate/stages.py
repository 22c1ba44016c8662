"""The stages of a model's way from PyTorch to a served answer.

Each stage takes an image's outputs of the stage before it and replaces one part of them: the
network's inputs, the network's outputs, or the answers. So a difference between two neighbours is
the later stage's doing, and a stage's figures count everything up to it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ..compare import comparison_of
from ..compare.agreement import OTHER_SHAPES, Agreement, Limit, compare_tensors
from ..pipeline import Pipeline
from ..runners import Runner, Tensors
from ..runners.triton import image_request
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


def way_to(name: str, stages: Iterable[Any]) -> list[Any]:
    """The stages, or their results, from the reference to the one of this name."""
    by_name = {stage.name: stage for stage in stages}
    way = [by_name[name]]
    while way[0].source is not None:
        way.insert(0, by_name[way[0].source])
    return way


def run_network(pipeline: Pipeline, runner: Runner, before: StageOutputs) -> StageOutputs:
    """Run the network with another runner."""
    outputs = runner.infer(pipeline.feed(before.inputs))
    answers = pipeline.postprocess(before.inputs, outputs)
    return replace(before, outputs=outputs, answers=answers)


def run_image(runner: Runner, encoded: bytes) -> Tensors:
    """Run the server's preprocessing, or its ensemble, on an encoded image."""
    return runner.infer(image_request(encoded))


def run_preprocessing(
    source: Stage, prepare: Callable[[bytes], Tensors], before: StageOutputs
) -> StageOutputs:
    """Run another preprocessing alone, and the network of `source` where the tensors differ."""
    inputs, old = prepare(before.encoded), before.inputs
    same = old.keys() == inputs.keys() and all(
        value.dtype == inputs[name].dtype and np.array_equal(value, inputs[name])
        for name, value in old.items()
    )
    return before if same else source.step(replace(before, inputs=inputs))


def run_postprocessing(names: Iterable[str], runner: Runner, before: StageOutputs) -> StageOutputs:
    """Run the server's postprocessing alone, on these outputs of the server's network."""
    sizes = {name: value for name, value in before.inputs.items() if name != "images"}
    outputs = {name: before.outputs[name] for name in names}
    return replace(before, answers=runner.infer({**outputs, **sizes}))


def run_ensemble(runner: Runner, before: StageOutputs) -> StageOutputs:
    """Run the served ensemble: an encoded image to answers in one request."""
    return replace(before, answers=run_image(runner, before.encoded))


def _compare_inputs(task: Task, reference: Tensors, candidate: Tensors) -> Agreement:
    tensors = {
        name: compare_tensors(value, candidate[name])
        for name, value in reference.items()
        if name in candidate
        and (value.shape, value.dtype) == (candidate[name].shape, candidate[name].dtype)
    }
    counts = {OTHER_SHAPES: float(len(reference) - len(tensors))}
    return Agreement(task=task, images=1, tensors=tensors, counts=counts)
