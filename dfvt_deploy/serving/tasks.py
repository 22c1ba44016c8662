"""What differs between the tasks when a model is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..artifact import Manifest, TensorSpec
from ..tasks import detection
from ..tasks.classification import TOP_K
from ..types import Task


@dataclass(frozen=True)
class ServedTask:
    """How the three steps of one task are joined.

    carried: what the preprocess step hands past the network to the postprocess step.
    network_outputs: those outputs of the network that the answers are made of.
    answers: the ensemble's outputs for a model and its answer options.
    answer_options: keyword arguments of the task's `answers`, for a model, the wanted k and the
        most pixels of an image.
    max_batch_size: by default; bounded by the memory of a batch.
    arena: whether onnxruntime keeps its memory. With sizes that differ from request to request
        it would keep the most that each ever needed.
    """

    carried: tuple[TensorSpec, ...]
    network_outputs: tuple[str, ...]
    answers: Callable[[Mapping[str, Any]], tuple[TensorSpec, ...]]
    answer_options: Callable[[Manifest, int, int], dict[str, Any]]
    max_batch_size: int
    arena: bool


_ORIGINAL_SIZES = TensorSpec(name="original_sizes", dtype="int64", shape=("batch", 2))


def _classification_answers(options: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    k = options["k"]
    return (
        TensorSpec(name="class_ids", dtype="int32", shape=("batch", k)),
        TensorSpec(name="scores", dtype="float32", shape=("batch", k)),
        TensorSpec(name="labels", dtype="bytes", shape=("batch", k)),
    )


def _segmentation_answers(_options: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="class_map", dtype="bytes", shape=("batch", 1)),)


def _detection_answers(_options: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    rows = ("batch", detection.ROWS)
    return (
        TensorSpec(name="boxes", dtype="float32", shape=(*rows, 4)),
        TensorSpec(name="scores", dtype="float32", shape=rows),
        TensorSpec(name="class_ids", dtype="int32", shape=rows),
        TensorSpec(name="labels", dtype="bytes", shape=rows),
        TensorSpec(name="masks", dtype="bytes", shape=rows),
        TensorSpec(name="num_detections", dtype="int32", shape=("batch", 1)),
    )


SERVED_TASKS: Mapping[Task, ServedTask] = {
    Task.CLASSIFICATION: ServedTask(
        carried=(),
        network_outputs=("logits",),
        answers=_classification_answers,
        answer_options=lambda manifest, k, _pixels: {"k": min(k or TOP_K, manifest.num_classes)},
        max_batch_size=64,
        arena=True,
    ),
    Task.DETECTION: ServedTask(
        carried=(_ORIGINAL_SIZES,),
        network_outputs=("boxes", "scores", "labels", "masks"),
        answers=_detection_answers,
        answer_options=lambda _manifest, _k, pixels: {"max_pixels": pixels},
        max_batch_size=4,
        arena=False,
    ),
    Task.SEGMENTATION: ServedTask(
        carried=(_ORIGINAL_SIZES,),
        network_outputs=("class_map",),
        answers=_segmentation_answers,
        answer_options=lambda _manifest, _k, pixels: {"max_pixels": pixels},
        max_batch_size=4,
        arena=False,
    ),
}
