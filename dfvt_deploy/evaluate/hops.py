"""The hops of a model's way from PyTorch to a served answer.

Each takes the passage of an image through the hop before it and changes one part of it: the
prepared inputs, the network's outputs, or the answers. So what differs between the two is the
hop's own doing, and the figures of a hop count everything up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..artifact import Manifest
from ..runners import Runner, Tensors
from ..serving.tasks import SERVED_TASKS
from ..tasks import classification, detection, segmentation
from ..tasks.images import normalise
from ..types import InputKind, Precision, Task
from . import limits
from .agreement import Agreement, compare_answers, compare_outputs, compare_tensors
from .limits import Limit

TASKS: Mapping[Task, ModuleType] = {
    Task.CLASSIFICATION: classification,
    Task.DETECTION: detection,
    Task.SEGMENTATION: segmentation,
}

REFERENCE = "pytorch"
ONNX = "onnx"
SIMPLIFIED = "simplified"
PREPROCESS = "triton preprocess"
NETWORK = "triton network"
POSTPROCESS = "triton postprocess"
ENSEMBLE = "triton ensemble"


@dataclass(frozen=True)
class Passage:
    """One image on its way (batch dimension included).

    encoded: the image file's bytes.
    inputs: what preprocessing made of it: the network's inputs, and sizes for the answers.
    outputs: the network's.
    answers: the ensemble's outputs.
    """

    encoded: bytes
    inputs: Tensors
    outputs: Tensors
    answers: Tensors


@dataclass(frozen=True)
class LocalSteps:
    """Pre- and postprocessing in this process, with the options that the server uses."""

    manifest: Manifest
    answer_options: Mapping[str, Any]

    def inputs(self, image: Image.Image) -> dict[str, NDArray[Any]]:
        """Raises `tasks.images.ImageError`."""
        canvas = self.manifest.preprocessing.canvas
        options = {"canvas": canvas} if canvas else {}
        tensors: dict[str, NDArray[Any]]
        tensors = TASKS[self.manifest.task].network_inputs([image], **options)
        if self.manifest.input_kind is InputKind.FLOAT32:
            tensors["images"] = normalise(tensors["images"])
        return tensors

    def feed(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """The network's part of the inputs."""
        return {spec.name: inputs[spec.name] for spec in self.manifest.inputs}

    def awaited(self, inputs: Tensors, outputs: Tensors) -> dict[str, NDArray[Any]]:
        """What postprocessing takes."""
        names = SERVED_TASKS[self.manifest.task].network_outputs
        sizes = {name: value for name, value in inputs.items() if name != "images"}
        return {**{name: outputs[name] for name in names}, **sizes}

    def answers(self, inputs: Tensors, outputs: Tensors) -> dict[str, NDArray[Any]]:
        task = TASKS[self.manifest.task]
        answers: dict[str, NDArray[Any]] = task.answers(
            self.awaited(inputs, outputs), self.manifest.labels, **self.answer_options
        )
        return answers


#: A hop's own part of the way: the passage before it to the passage after it.
Step = Callable[[Passage], Passage]


@dataclass(frozen=True)
class Hop:
    """One form of the model, or one part of its serving.

    source: the hop before it, by name; None for the reference.
    title: what it is, for people.
    step: what it does with an image.
    compare: its passage with that of the hop before it.
    step_limits: for that comparison.
    precision: what it computes in, for the limits against the reference.
    changes: whether the precision is another than before it, so that figures may change.
    network: whether its network's outputs are compared with the reference's, not its answers.
    file: of the exported model, which its verdict is about.
    """

    name: str
    source: str | None
    title: str
    step: Step
    compare: Callable[[Passage, Passage], Agreement]
    step_limits: tuple[Limit, ...]
    precision: Precision = Precision.FP32
    changes: bool = False
    network: bool = True
    file: str | None = None

    def total_limits(self, task: Task) -> tuple[Limit, ...]:
        """For the comparison with the reference."""
        return (limits.NETWORK if self.network else limits.ANSWERS)[task][self.precision]


def network_hop(
    steps: LocalSteps,
    name: str,
    source: str | None,
    title: str,
    runner: Runner,
    *,
    precision: Precision = Precision.FP32,
    changes: bool = False,
    lower: bool = False,
    file: str | None = None,
) -> Hop:
    """A hop that runs the network elsewhere.

    changes: the precision is another than that of the hop before it.
    lower: other rounding within one precision is expected, as on other hardware.
    """

    def step(before: Passage) -> Passage:
        outputs = runner.infer(steps.feed(before.inputs))
        return replace(before, outputs=outputs, answers=steps.answers(before.inputs, outputs))

    task = steps.manifest.task
    return Hop(
        name=name,
        source=source,
        title=title,
        step=step,
        compare=lambda a, b: outputs_agreement(task, a, b),
        step_limits=limits.NETWORK[task][precision if changes or lower else Precision.FP32],
        precision=precision,
        changes=changes,
        file=file,
    )


def preprocess_hop(steps: LocalSteps, source: Hop, runner: Runner) -> Hop:
    """The server's first step, alone; its tensors must be those made here, bit by bit."""

    def step(before: Passage) -> Passage:
        inputs = runner.infer(image_request(before.encoded))
        if _identical(before.inputs, inputs):
            return before
        return source.step(replace(before, inputs=inputs))

    task = steps.manifest.task
    return Hop(
        name=PREPROCESS,
        source=source.name,
        title=f"{steps.manifest.name}_preprocess, called with the image",
        step=step,
        compare=lambda a, b: _tensors_agreement(task, a.inputs, b.inputs),
        step_limits=limits.IDENTICAL,
        precision=source.precision,
        network=False,
    )


def postprocess_hop(steps: LocalSteps, precision: Precision, runner: Runner) -> Hop:
    """The server's last step, alone, on the outputs of its network."""

    def step(before: Passage) -> Passage:
        return replace(before, answers=runner.infer(steps.awaited(before.inputs, before.outputs)))

    task = steps.manifest.task
    return Hop(
        name=POSTPROCESS,
        source=NETWORK,
        title=f"{steps.manifest.name}_postprocess, called with the network's outputs",
        step=step,
        compare=lambda a, b: answers_agreement(task, a, b),
        step_limits=limits.SAME_CODE[task],
        precision=precision,
        network=False,
    )


def ensemble_hop(steps: LocalSteps, precision: Precision, runner: Runner) -> Hop:
    """The whole of what is served: encoded image to answers in one request."""

    def step(before: Passage) -> Passage:
        return replace(before, answers=runner.infer(image_request(before.encoded)))

    task = steps.manifest.task
    return Hop(
        name=ENSEMBLE,
        source=POSTPROCESS,
        title=f"{steps.manifest.name}, image in, answers out",
        step=step,
        compare=lambda a, b: answers_agreement(task, a, b),
        step_limits=limits.ANSWERS[task][
            Precision.FP32 if precision is Precision.FP32 else Precision.FP16
        ],
        precision=precision,
        network=False,
    )


def image_request(encoded: bytes) -> dict[str, NDArray[Any]]:
    """The request of one encoded image."""
    return {"image": np.array([[encoded]], dtype=np.object_)}


def outputs_agreement(task: Task, reference: Passage, candidate: Passage) -> Agreement:
    """Of the networks' outputs; another shape is counted as `shapes`."""
    try:
        return compare_outputs(
            task, reference.outputs, candidate.outputs, reference.inputs.get("image_sizes")
        )
    except ValueError:
        return _other_shape(task)


def answers_agreement(task: Task, reference: Passage, candidate: Passage) -> Agreement:
    """Of the answers; another shape is counted as `shapes`."""
    try:
        return compare_answers(task, reference.answers, candidate.answers)
    except ValueError:
        return _other_shape(task)


def _tensors_agreement(task: Task, reference: Tensors, candidate: Tensors) -> Agreement:
    tensors = {}
    shapes = 0
    for name, value in reference.items():
        other = candidate.get(name)
        if other is None or other.shape != value.shape or other.dtype != value.dtype:
            shapes += 1
        else:
            tensors[name] = compare_tensors(value, other)
    return Agreement(task=task, images=1, tensors=tensors, counts={"shapes": float(shapes)})


def _other_shape(task: Task) -> Agreement:
    return Agreement(task=task, images=1, counts={"shapes": 1.0})


def _identical(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(
        value.dtype == b[name].dtype and np.array_equal(value, b[name]) for name, value in a.items()
    )
