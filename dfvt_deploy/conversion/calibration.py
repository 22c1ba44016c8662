"""Real images as a network's inputs: what a conversion is calibrated on and compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..artifact import Manifest
from ..data import SAMPLES
from ..errors import BadInput
from ..tasks import classification, detection, segmentation
from ..tasks.dense import SIZE_MULTIPLE, resized_size
from ..tasks.images import ImageError, decode_image, normalise
from ..types import InputKind, Task

#: Files of a folder that are taken for images.
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")

#: Most images of a folder that are used, evenly spread over it.
DEFAULT_IMAGES = 256

#: Longest side of a dense model's canvas while calibrating. The published sizes are up to eight
#: times as large; ranges hardly depend on it, and an hour becomes minutes.
DEFAULT_SIDE = 512

#: The most images that a converted file is compared on. Dense ones are large and full of answers.
_COMPARED = {Task.CLASSIFICATION: 64, Task.SEGMENTATION: 8, Task.DETECTION: 8}

#: Of each sample image: the whole, then its corners. Left, top, right, bottom, in shares.
_VIEWS = (
    (0.0, 0.0, 1.0, 1.0),
    (0.0, 0.0, 0.6, 0.6),
    (0.4, 0.0, 1.0, 0.6),
    (0.0, 0.4, 0.6, 1.0),
    (0.4, 0.4, 1.0, 1.0),
)

Feed = Mapping[str, NDArray[Any]]
Canvas = tuple[int, int]


@dataclass(frozen=True)
class _View:
    file: Path
    part: tuple[float, float, float, float] = _VIEWS[0]

    def decoded(self) -> Image.Image:
        try:
            image = decode_image(self.file.read_bytes())
        except ImageError as error:
            raise BadInput(f"{self.file}: {error}") from error
        x, y = image.size
        left, top, right, bottom = self.part
        return image.crop((int(left * x), int(top * y), round(right * x), round(bottom * y)))


@dataclass(frozen=True)
class CalibrationImages:
    """Images as feeds of one graph, a batch of one each, made when they are asked for.

    source: name of the folder, or `samples` for those of the package.
    """

    source: str
    task: Task
    input_kind: InputKind
    views: Sequence[_View]
    canvas_of: Callable[[Image.Image], Canvas | None]

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[Feed]:
        for view in self.views:
            yield self._feed(view.decoded())

    def compared(self) -> CalibrationImages:
        """Those that a converted file is compared on, evenly spread."""
        views = _spread(self.views, _COMPARED[self.task])
        return CalibrationImages(self.source, self.task, self.input_kind, views, self.canvas_of)

    def digest(self) -> str:
        """SHA-256 over what is fed: the images' bytes, their parts and the task."""
        total = hashlib.sha256(f"{self.task} {self.input_kind}".encode())
        for view in self.views:
            total.update(hashlib.sha256(view.file.read_bytes()).digest())
            total.update(repr(view.part).encode())
        return total.hexdigest()

    def _feed(self, image: Image.Image) -> Feed:
        if self.task is Task.CLASSIFICATION:
            feed = classification.network_inputs([image])
        else:
            module = segmentation if self.task is Task.SEGMENTATION else detection
            feed = module.network_inputs([image], self.canvas_of(image))
        feed.pop("original_sizes", None)
        if self.input_kind is InputKind.FLOAT32:
            feed["images"] = normalise(feed["images"])
        return feed


def calibration_images(
    manifest: Manifest,
    folder: str | Path | None = None,
    *,
    images: int = DEFAULT_IMAGES,
    max_side: int = DEFAULT_SIDE,
) -> CalibrationImages:
    """The images of a folder and its subfolders, or parts of the package's samples.

    Args:
        images: most that are taken, evenly spread over the folder's names in order.
        max_side: longest side of a dense model's canvas, in pixels; a multiple of 32.

    Raises:
        BadInput: no image in the folder, or a number out of range.
    """
    if images < 1:
        raise BadInput(f"--images {images} is below 1")
    if max_side < SIZE_MULTIPLE or max_side % SIZE_MULTIPLE:
        raise BadInput(f"--max-side {max_side} is not a positive multiple of {SIZE_MULTIPLE}")
    if folder is None:
        views = [_View(file, part) for part in _VIEWS for file in sorted(SAMPLES.glob("*.jpg"))]
        source = "samples"
    else:
        folder = Path(folder)
        files = sorted(
            file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
        )
        if not files:
            raise BadInput(f"{folder} holds no image ({', '.join(SUFFIXES)})")
        views, source = [_View(file) for file in files], folder.resolve().name
    return CalibrationImages(
        source,
        manifest.task,
        manifest.input_kind,
        _spread(views, images),
        _canvas_of(manifest, max_side),
    )


def _canvas_of(manifest: Manifest, max_side: int) -> Callable[[Image.Image], Canvas | None]:
    """The canvas that an image is padded to: the fixed one, else its own in a limited square."""
    static = manifest.preprocessing.canvas
    limit = (max_side, max_side)

    def canvas_of(image: Image.Image) -> Canvas | None:
        if manifest.task is Task.CLASSIFICATION or static is not None:
            return static
        module = segmentation if manifest.task is Task.SEGMENTATION else detection
        size = resized_size(image.height, image.width, module.LONG_SIDE, module.SHORT_SIDE, limit)
        height, width = (-(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE for side in size)
        return height, width

    return canvas_of


def _spread(views: Sequence[_View], most: int) -> Sequence[_View]:
    if len(views) <= most:
        return views
    return [views[i] for i in np.linspace(0, len(views) - 1, most).round().astype(int)]
