"""What can be found wrong with a dataset before hours are spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ...data import class_names
from ...errors import BadInput
from ...tasks.images import DEFAULT_LIMITS, FORMATS
from ...types import Task

#: Endings of image files that a folder is searched for.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

#: Problems that a message spells out.
_SHOWN = 20

_EXIF_ORIENTATION = 0x0112


def refuse(data: Path, problems: Sequence[str]) -> None:
    """Raise BadInput with the problems found, if there are any."""
    if not problems:
        return
    lines = [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  … and {len(problems) - _SHOWN} more")
    found = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise BadInput(f"{data} cannot be used, {found}:\n" + "\n".join(lines))


def images_below(directory: Path) -> list[Path]:
    """Image files in a folder and its subfolders, sorted; hidden ones are left out."""
    return sorted(
        path
        for path in directory.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
        and path.is_file()
    )


def image_problem(path: Path, size: tuple[int, int] | None = None) -> str | None:
    """What is wrong with an image file as far as its header tells, or None.

    size: the height and width that it must have when it is upright.
    """
    try:
        length = path.stat().st_size
        if length == 0:
            return f"{path} is empty (0 bytes)"
        if length > DEFAULT_LIMITS.max_bytes:
            return f"{path} has {length:,} bytes, the limit is {DEFAULT_LIMITS.max_bytes:,}"
        with Image.open(path, formats=FORMATS) as image:
            height, width = image.height, image.width
            if size is not None and image.getexif().get(_EXIF_ORIENTATION, 1) >= 5:
                height, width = width, height
    except FileNotFoundError:
        return f"{path} is missing"
    except Exception as error:  # Pillow raises nearly anything on damaged files
        return f"{path} cannot be read: {error or type(error).__name__}"
    if height * width > DEFAULT_LIMITS.max_pixels:
        return f"{path} has {height * width:,} pixels, the limit is {DEFAULT_LIMITS.max_pixels:,}"
    if size is not None and (height, width) != size:
        return f"{path} is {height}x{width}, its annotation says {size[0]}x{size[1]}"
    return None


def published_order_problem(task: Task, labels: Sequence[str]) -> str | None:
    """What is wrong where a model's labels are the published ones, but in another order."""
    published = class_names(task)
    if tuple(labels) == published or sorted(labels) != sorted(published):
        return None
    i = next(i for i, name in enumerate(published) if labels[i] != name)
    return (
        f"the model's labels are the published classes in another order: class {i} is "
        f"{labels[i]!r}, published is {published[i]!r}; was the --labels file of the export "
        "shifted or sorted?"
    )
