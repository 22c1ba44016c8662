"""One version of a model as it is served: its files and settings, which its configs describe."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..manifest import Manifest, TensorSpec
from .options import PopulateOptions
from .tasks import Answer, ServedTask, served_task

#: Height and width that warm up a network of any size.
WARMUP_SIZE = 224, 224


def largest_batch(manifest: Manifest, options: PopulateOptions) -> int:
    """The most images of one request or batch."""
    return options.max_batch_size or served_task(manifest.task).max_batch_size


@dataclass(frozen=True)
class NetworkFiles:
    """The files that a backend serves as the network.

    copied: by name in the repository, the file that is copied there.
    default: name of the file for every machine, or for GPUs that are not in `by_capability`; empty
        where those get none.
    by_capability: names of plans by the compute capability of the GPU that they are for, as "9.0".
    warmup_size: height and width of the images that warm up a network of any size.
    """

    copied: Mapping[str, Path]
    default: str
    by_capability: Mapping[str, str] = field(default_factory=dict)
    warmup_size: tuple[int, ...] = WARMUP_SIZE

    @property
    def sources(self) -> list[str]:
        """Names of the files in the export's folder that `validate` judges."""
        return [p.name for p in self.copied.values() if p.suffix in (".onnx", ".plan")]


@dataclass(frozen=True)
class ServedModel:
    """One version of a model as its configs describe it, with the files of the network."""

    manifest: Manifest
    version: int
    options: PopulateOptions
    files: NetworkFiles

    @property
    def task(self) -> ServedTask:
        return served_task(self.manifest.task)

    @property
    def answer_options(self) -> dict[str, Any]:
        """Keyword arguments of the task's `postprocess_batch`."""
        top_k, pixels = self.options.top_k, self.options.max_pixels
        return self.task.answer_options(self.manifest, top_k, pixels)

    @property
    def prepared(self) -> tuple[TensorSpec, ...]:
        """Outputs of the preprocess step: the network's inputs, and what is carried past it."""
        return (*self.manifest.inputs, *self.task.carried)

    @property
    def awaited(self) -> tuple[TensorSpec, ...]:
        """Inputs of the postprocess step: outputs of the network, and sizes of the images."""
        names = self.task.network_outputs
        outputs = tuple(spec for spec in self.manifest.outputs if spec.name in names)
        return (*outputs, *(spec for spec in self.prepared if spec.name != "images"))

    @property
    def answers(self) -> tuple[Answer, ...]:
        """Outputs of the ensemble and of the postprocess step."""
        sizes: dict[Any, Any] = {"classes": self.manifest.num_classes, **self.answer_options}
        return tuple(
            replace(answer, shape=tuple(sizes.get(dim, dim) for dim in answer.shape))
            for answer in self.task.answers
        )
