"""The content of a dataset: images, and the truth about each of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ...types import Task

Kind: TypeAlias = Literal["imagenet", "coco", "ade20k", "images"]


@dataclass(frozen=True)
class ClassTruth:
    """The class of an image: its class id, and the model's label for this class."""

    class_id: int
    label: str


@dataclass(frozen=True)
class AnnotatedObject:
    """One annotated object of an image, checked against the image's size.

    box: left, top, width and height in pixels. area: square pixels.
    crowd: whether the annotation stands for many objects at once.
    segmentation: polygons (lists of x and y in turn), or run lengths `{"size", "counts"}` in either
        of COCO's forms.
    """

    class_id: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    segmentation: Any


@dataclass(frozen=True)
class DetectionTruth:
    """The objects of an image, its height and width, and the model's labels by class id."""

    size: tuple[int, int]
    objects: tuple[AnnotatedObject, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ClassMapTruth:
    """The file with the annotated class map of an image, which `read_class_map` reads."""

    path: Path
    num_classes: int


Truth: TypeAlias = ClassTruth | DetectionTruth | ClassMapTruth


@dataclass(frozen=True)
class Sample:
    """One image. `id` is unique in its dataset; `truth` is None for an image without labels."""

    id: str
    path: Path
    truth: Truth | None = None


@dataclass(frozen=True)
class Dataset:
    """Images in a fixed order, checked as far as possible without decoding them. `available` is
    their number before a limit was applied; `notes` say what is unusual, though usable."""

    kind: Kind
    task: Task
    name: str
    samples: tuple[Sample, ...]
    available: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)
