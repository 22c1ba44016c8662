"""The content of a dataset: images, the truth about each of them, and checks that several kinds of
datasets share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile

from ...data import class_names
from ...errors import BadInput
from ...image_files import spread
from ...tasks.images import DEFAULT_LIMITS, FORMATS
from ...types import Task


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


@dataclass(frozen=True)
class Sample:
    """One image. `id` is unique in its dataset; `truth` is None for an image without labels."""

    id: str
    path: Path
    truth: ClassTruth | DetectionTruth | ClassMapTruth | None = None


@dataclass(frozen=True)
class Dataset:
    """Images in a fixed order, checked as far as possible without decoding them. `available` is
    their number before a limit was applied; `notes` say what is unusual, though usable."""

    name: str
    samples: tuple[Sample, ...]
    available: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)


#: The number of problems that a message shows.
_SHOWN = 20

_EXIF_ORIENTATION = 0x0112


def refuse(data: Path, problems: Sequence[str]) -> None:
    """Raise BadInput with the problems that were found in a dataset, if there are any."""
    lines = [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  … and {len(problems) - _SHOWN} more")
    if problems:
        found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise BadInput(f"{data} cannot be used, {found}:", *lines)


def chosen_of(data: Path, samples: Sequence[Sample], limit: int | None) -> tuple[Sample, ...]:
    """At most `limit` samples of a dataset, evenly spread. Raises BadInput where the image of one
    cannot be used, as far as its header tells, or has another size than its truth."""
    chosen = tuple(spread(samples, limit))
    found = (image_problem(each.path, getattr(each.truth, "size", None)) for each in chosen)
    refuse(data, [problem for problem in found if problem])
    return chosen


@contextmanager
def opened_image(
    path: Path, formats: tuple[str, ...] = FORMATS, read: str = "read"
) -> Iterator[ImageFile.ImageFile]:
    """An image file that is not decoded yet. Raises BadInput where it is missing, empty, too large
    or, before or in the block, found to be damaged: it cannot be `read` then."""
    try:
        str(path).encode()
        if (length := path.stat().st_size) == 0:
            raise BadInput(f"{path} is empty (0 bytes)")
        limits = DEFAULT_LIMITS
        if length > limits.max_bytes:
            raise BadInput(f"{path} has {length:,} bytes, the limit is {limits.max_bytes:,}")
        with Image.open(path, formats=formats) as image:
            if (pixels := image.height * image.width) > limits.max_pixels:
                raise BadInput(f"{path} has {pixels:,} pixels, the limit is {limits.max_pixels:,}")
            yield image
    except BadInput:
        raise
    except UnicodeEncodeError:
        raise BadInput(f"the file name {str(path)!r} is not UTF-8; rename the file") from None
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise BadInput(f"{path} cannot be {read}: {error or type(error).__name__}") from error


def image_problem(path: Path, size: tuple[int, ...] | None = None) -> str | None:
    """The reason why an image file cannot be used, as far as its header tells, or None. `size` is
    the height and width that the image must have when it is upright."""
    try:
        with opened_image(path) as image:
            found = image.height, image.width
            # Pillow decodes a PNG file to find its orientation, so this comes after the limits.
            if size is not None and image.getexif().get(_EXIF_ORIENTATION, 1) >= 5:
                found = found[::-1]
    except BadInput as error:
        return str(error)
    if size is not None and found != size:
        return f"{path} is {found[0]}x{found[1]}, its annotation says {size[0]}x{size[1]}"
    return None


def published_order_problems(task: Task, labels: Sequence[str]) -> list[str]:
    """One problem if a model's labels are the published ones in another order."""
    published = class_names(task)
    if tuple(labels) == published or sorted(labels) != sorted(published):
        return []
    i = next(i for i, name in enumerate(published) if labels[i] != name)
    return [
        f"the model's labels are the published classes in another order: class {i} is "
        f"{labels[i]!r}, published is {published[i]!r}; was the --labels file of the export "
        "shifted or sorted?"
    ]
