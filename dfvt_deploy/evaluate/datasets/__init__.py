"""Images with what is true about them, checked before hours are spent.

    dataset = open_dataset("imagenet", Path("imagenet/val"), artifact.manifest, limit=1000)
    for sample in dataset.samples:
        image = load(sample)

What is checked for which kind: docs/datasets.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...artifact import Manifest
from ...errors import BadInput
from ...types import Task
from .ade20k import open_ade20k
from .coco import open_coco
from .imagenet import open_imagenet
from .images import open_images
from .sample import (
    ClassMapTruth,
    ClassTruth,
    Dataset,
    DetectionTruth,
    Kind,
    Sample,
    load,
)

__all__ = [
    "ClassMapTruth",
    "ClassTruth",
    "Dataset",
    "DetectionTruth",
    "Kind",
    "Sample",
    "load",
    "open_dataset",
]

_OPENERS: Mapping[str, Callable[[Path, Manifest, int | None], Dataset]] = {
    "imagenet": open_imagenet,
    "coco": open_coco,
    "ade20k": open_ade20k,
    "images": open_images,
}

#: The task that a dataset's truth is about; "images" has none and suits all.
_TASKS: Mapping[str, Task] = {
    "imagenet": Task.CLASSIFICATION,
    "coco": Task.DETECTION,
    "ade20k": Task.SEGMENTATION,
}


def open_dataset(
    kind: Kind, data: str | Path, manifest: Manifest, limit: int | None = None
) -> Dataset:
    """A dataset for the model of a manifest, its class ids being the model's.

    Args:
        data: folder or file, as the kind has it (docs/datasets.md).
        limit: take so many images, evenly spread over all, the same at every call.

    Raises:
        BadInput: of another task than the model, or with a list of everything that is wrong.
    """
    if kind not in _OPENERS:
        raise BadInput(f"dataset {kind!r} is none of {', '.join(_OPENERS)}")
    if _TASKS.get(kind, manifest.task) is not manifest.task:
        raise BadInput(
            f"{kind} is for {_TASKS[kind]}, {manifest.name} is a {manifest.task} model; use "
            f"{next(k for k, task in _TASKS.items() if task is manifest.task)}, or images for "
            "agreement without labels"
        )
    if limit is not None and limit < 1:
        raise BadInput(f"limit {limit} is below 1; leave it out to take all images")
    data = Path(data)
    if not data.exists():
        raise BadInput(f"{data} does not exist; give the dataset's folder or file")
    return _OPENERS[kind](data, manifest, limit)
