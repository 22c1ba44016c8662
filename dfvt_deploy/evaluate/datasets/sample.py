"""What a dataset is made of: images, and what is true about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from PIL import Image

from ...errors import BadInput
from ...tasks.images import ImageError, decode_image
from ...types import Task

Kind: TypeAlias = Literal["imagenet", "coco", "ade20k", "images"]


@dataclass(frozen=True)
class ClassTruth:
    """The class of an image, and the label that the model has for it."""

    class_id: int
    label: str


@dataclass(frozen=True)
class DetectionTruth:
    """The objects of an image.

    size: height and width of the image.
    objects: COCO annotations, their `category_id` being the model's class id.
    labels: the model's, by class id; one tuple for the whole dataset.
    """

    size: tuple[int, int]
    objects: tuple[Mapping[str, Any], ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ClassMapTruth:
    """The annotated class map of an image, not read before it is needed; see `read_class_map`."""

    path: Path
    num_classes: int


Truth: TypeAlias = ClassTruth | DetectionTruth | ClassMapTruth


@dataclass(frozen=True)
class Sample:
    """One image. `id` names it within its dataset; `truth` is None where nothing is known."""

    id: str
    path: Path
    truth: Truth | None = None


@dataclass(frozen=True)
class Dataset:
    """Images in a fixed order, checked as far as can be without decoding them.

    available: images that there were before a limit.
    notes: what is worth knowing and no reason to stop.
    """

    kind: Kind
    task: Task
    name: str
    samples: tuple[Sample, ...]
    available: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)


def load(sample: Sample) -> Image.Image:
    """The RGB image of a sample, decoded as the server does; can be handed to worker processes.

    Raises:
        BadInput: not readable or not decodable.
    """
    try:
        return decode_image(sample.path.read_bytes())
    except OSError as error:
        raise BadInput(f"image {sample.path} cannot be read: {error.strerror}") from error
    except ImageError as error:
        raise BadInput(f"{sample.path}: {error}") from error


def spread(count: int, limit: int | None) -> list[int]:
    """Positions of at most `limit` of `count` things, evenly spread over all, always the same."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]
