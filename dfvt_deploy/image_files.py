"""Image files of a folder, and an even choice among them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: File name endings, in lower case, by which a folder's images are found.
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")


def find_images(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders, sorted by path, chosen by their endings and
    not opened. Hidden ones are left out. A folder that does not exist holds none."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def spread(items: Sequence[T], limit: int | None) -> Sequence[T]:
    """At most `limit` items at even distances, the first among them; all for None. The same
    sequence and limit give the same items at every call, and twice the limit gives them and as many
    between, so that results of a smaller run serve a larger one."""
    if limit is None or len(items) <= limit:
        return items
    return [items[i * len(items) // limit] for i in range(limit)]
