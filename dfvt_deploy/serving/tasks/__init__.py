"""What differs between the tasks when a model is served; each file holds the entry of its task.

Enter through `served_task(task)`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...manifest import Manifest, TensorSpec
from ...types import Task

#: Height and width of each image as it was sent, which dense tasks need after the network.
ORIGINAL_SIZES = TensorSpec(name="original_sizes", dtype="int64", shape=("batch", 2))


@dataclass(frozen=True)
class Answer:
    """One output of an ensemble. `string` is UTF-8 text, `bytes` is binary; both are BYTES in
    Triton. A dimension of the shape, batch first, is a size, or the name of a symbolic size:
    `classes`, or an answer option such as `k`."""

    name: str
    dtype: Literal["int32", "float32", "string", "bytes"]
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ServedTask:
    """How the three steps of one task are joined.

    network_outputs: names of the network's outputs that the postprocess step takes.
    answers: outputs of the ensemble.
    max_batch_size: largest batch by default; the memory of a batch bounds it.
    answer_options: keyword arguments of the task's `postprocess_batch` for a model, the k that
        was asked for (None by default) and the most pixels of an image.
    carried: tensors that the preprocess step hands past the network to the postprocess step.
    scored: the answers that have a row for each of `scores`, which is among them.
    row_count: the answer that holds the number of those rows.
    on_request: answers that are made in a call of their own, for requests that ask for them.
    top_k: whether `--top-k` means anything.
    arena: whether onnxruntime keeps its memory between requests. With sizes that differ from
        request to request it would keep the most that each ever needed.
    instances: copies of the network on the CPU by default. Two take turns at what one thread does;
        of a large network that is little, and its memory is not.
    """

    network_outputs: tuple[str, ...]
    answers: tuple[Answer, ...]
    max_batch_size: int
    answer_options: Callable[[Manifest, int | None, int], dict[str, Any]]
    carried: tuple[TensorSpec, ...] = ()
    scored: tuple[str, ...] = ()
    row_count: str | None = None
    on_request: tuple[str, ...] = ()
    top_k: bool = False
    arena: bool = True
    instances: int = 1


def served_task(task: Task) -> ServedTask:
    """The entry of a task."""
    found: ServedTask = task.entry("serving.tasks", "SERVED")
    return found


def task_of(outputs: Mapping[str, Any]) -> Task | None:
    """The task whose answers have these names; None where there is none. Of two tasks whose answers
    are all there, the one with more answers is taken."""
    found = {task: {spec.name for spec in served_task(task).answers} for task in Task}
    fitting = [task for task, names in found.items() if names <= outputs.keys()]
    return max(fitting, key=lambda task: len(found[task]), default=None)
