"""The shapes an engine takes: from the artifact's symbolic dimensions and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from ..artifact import Manifest
from ..errors import BadInput
from ..tasks import detection, segmentation
from ..tasks.dense import SIZE_MULTIPLE, next_multiple
from ..types import Task
from .record import ShapeProfile

Size = tuple[int, int]

#: Most images at once, and height and width of a dense model's canvas.
MAX_BATCH, MAX_SIDE = 4096, 16384


@dataclass(frozen=True)
class Shapes:
    """Batch and, for a dense model of any size, height and width that an engine is built for.
    What is None is the task's default."""

    min_batch: int | None = None
    opt_batch: int | None = None
    max_batch: int | None = None
    min_size: Size | None = None
    opt_size: Size | None = None
    max_size: Size | None = None


@dataclass(frozen=True)
class _Defaults:
    """`sizes` are least, usual and largest canvas; the largest takes whatever preprocessing makes.
    The largest batch is what `populate` serves by default."""

    batches: tuple[int, int, int]
    sizes: tuple[Size, Size, Size] | None = None


def _canvases(usual: Size, long_side: int) -> tuple[Size, Size, Size]:
    largest = next_multiple(long_side)
    return (SIZE_MULTIPLE, SIZE_MULTIPLE), usual, (largest, largest)


DEFAULTS = {
    Task.CLASSIFICATION: _Defaults((1, 8, 64)),
    # 4:3 photographs.
    Task.DETECTION: _Defaults((1, 1, 4), _canvases((800, 1088), detection.LONG_SIDE)),
    Task.SEGMENTATION: _Defaults((1, 1, 4), _canvases((512, 704), segmentation.LONG_SIDE)),
}


def profile_of(manifest: Manifest, shapes: Shapes) -> dict[str, ShapeProfile]:
    """The shapes of each input of a model.

    Raises:
        BadInput: a number is out of range, or the model's size is fixed.
    """
    defaults = DEFAULTS[manifest.task]
    batches = _batches(shapes, defaults.batches)
    symbolic = any("height" in spec.shape for spec in manifest.inputs)
    asked = (shapes.min_size, shapes.opt_size, shapes.max_size)
    if not symbolic and asked != (None, None, None):
        raise BadInput(f"{manifest.name} has a fixed size; leave --min/--opt/--max-size out")
    sizes = _sizes(asked, defaults.sizes) if symbolic and defaults.sizes else None
    profile = {}
    for spec in manifest.inputs:
        dims = []
        for which in range(3):
            known = {"batch": batches[which]}
            if sizes is not None:
                known["height"], known["width"] = sizes[which]
            dims.append(tuple(known[d] if isinstance(d, str) else d for d in spec.shape))
        profile[spec.name] = ShapeProfile(min=dims[0], opt=dims[1], max=dims[2])
    return profile


def _batches(shapes: Shapes, defaults: tuple[int, int, int]) -> tuple[int, int, int]:
    largest = shapes.max_batch or max(defaults[2], shapes.opt_batch or 0, shapes.min_batch or 0)
    least = shapes.min_batch or min(defaults[0], largest)
    usual = shapes.opt_batch or min(max(defaults[1], least), largest)
    if not 1 <= least <= usual <= largest <= MAX_BATCH:
        raise BadInput(
            f"batches {least}, {usual}, {largest} (least, usual, largest) must not fall and be "
            f"within 1..{MAX_BATCH}"
        )
    return least, usual, largest


def _sizes(
    asked: tuple[Size | None, Size | None, Size | None], defaults: tuple[Size, Size, Size]
) -> tuple[Size, Size, Size]:
    given = [size for size in asked if size is not None]
    largest = asked[2] or _most(defaults[2], *given)
    least = asked[0] or _least(defaults[0], *given)
    usual = asked[1] or _most(_least(defaults[1], largest), least)
    for height, width in (least, usual, largest):
        if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
            raise BadInput(f"size {height}x{width} is not of multiples of {SIZE_MULTIPLE}")
    for low, middle, high in zip(least, usual, largest, strict=True):
        if not SIZE_MULTIPLE <= low <= middle <= high <= MAX_SIDE:
            raise BadInput(
                "sizes "
                + ", ".join(f"{height}x{width}" for height, width in (least, usual, largest))
                + " (least, usual, largest) must not fall and be within "
                f"{SIZE_MULTIPLE}..{MAX_SIDE}"
            )
    return least, usual, largest


def _least(*sizes: Size) -> Size:
    return min(height for height, _ in sizes), min(width for _, width in sizes)


def _most(*sizes: Size) -> Size:
    return max(height for height, _ in sizes), max(width for _, width in sizes)
