"""The shapes an engine takes: from the model's symbolic dimensions and a few numbers."""

from typing import TypeVar

from ..errors import BadInput
from ..manifest import Manifest
from ..options import Size
from ..task_entries import entry
from ..tasks.dense import SIZE_MULTIPLE, next_multiple
from .options import BuildOptions
from .record import ShapeProfile

#: Most images at once, and height and width of a dense model's canvas.
MAX_BATCH, MAX_SIDE = 4096, 16384

T = TypeVar("T")

#: The smallest, the usual and the largest value. An engine is fastest at the usual one.
Range = tuple[T, T, T]


def profile_of(manifest: Manifest, options: BuildOptions) -> dict[str, ShapeProfile]:
    """The shapes of each input of a model, by the input's name. Raises BadInput where a number is
    out of range, or a canvas is given for a model of one size."""
    batches = _batches(options, entry("tasks", manifest.task, "ENGINE_BATCHES"))
    asked = (options.min_size, options.opt_size, options.max_size)
    defaults = default_sizes(manifest)
    if defaults is None and asked != (None, None, None):
        raise BadInput(f"{manifest.name} has a fixed size; leave --min/--opt/--max-size out")
    sizes = _sizes(asked, defaults) if defaults else None
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


def default_sizes(manifest: Manifest) -> Range[Size] | None:
    """Canvases of an engine by default, the largest for any image; None for a model of one size."""
    if not any("height" in spec.shape for spec in manifest.inputs):
        return None
    largest = next_multiple(entry("tasks", manifest.task, "LONG_SIDE"))
    usual = entry("tasks", manifest.task, "USUAL_SIZE")
    return (SIZE_MULTIPLE, SIZE_MULTIPLE), usual, (largest, largest)


def _batches(options: BuildOptions, defaults: Range[int]) -> Range[int]:
    given = (options.opt_batch or 0, options.min_batch or 0)
    largest = options.max_batch or max(defaults[2], *given)
    least = options.min_batch or min(defaults[0], largest)
    usual = options.opt_batch or min(max(defaults[1], least), largest)
    if not 1 <= least <= usual <= largest <= MAX_BATCH:
        raise BadInput(
            f"batches {least}, {usual}, {largest} (least, usual, largest) must not fall and be "
            f"within 1..{MAX_BATCH}"
        )
    return least, usual, largest


def _sizes(asked: Range[Size | None], defaults: Range[Size]) -> Range[Size]:
    given = [size for size in asked if size is not None]
    largest = asked[2] or _most(defaults[2], *given)
    least = asked[0] or _least(defaults[0], *given)
    usual = asked[1] or _most(_least(defaults[1], largest), least)
    for height, width in (least, usual, largest):
        if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
            raise BadInput(f"size {height}x{width} is not of multiples of {SIZE_MULTIPLE}")
    for low, middle, high in zip(least, usual, largest, strict=True):
        if not SIZE_MULTIPLE <= low <= middle <= high <= MAX_SIDE:
            sizes = ", ".join(f"{height}x{width}" for height, width in (least, usual, largest))
            raise BadInput(
                f"sizes {sizes} (least, usual, largest) must not fall and be within "
                f"{SIZE_MULTIPLE}..{MAX_SIDE}"
            )
    return least, usual, largest


def _least(*sizes: Size) -> Size:
    return min(height for height, _ in sizes), min(width for _, width in sizes)


def _most(*sizes: Size) -> Size:
    return max(height for height, _ in sizes), max(width for _, width in sizes)
