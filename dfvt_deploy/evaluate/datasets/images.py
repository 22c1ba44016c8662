"""Any folder of images, of which nothing is known: good for agreement, not for accuracy."""

from __future__ import annotations

from pathlib import Path

from ...artifact import Manifest
from .checks import SUFFIXES, image_problem, images_below, refuse
from .sample import Dataset, Sample, spread


def open_images(data: Path, manifest: Manifest, limit: int | None) -> Dataset:
    """All images in a folder and its subfolders.

    Raises:
        BadInput: there is none, or with those that cannot be used.
    """
    files = images_below(data) if data.is_dir() else []
    if not files:
        refuse(data, [f"it is no folder with images ({', '.join(sorted(SUFFIXES))})"])
    chosen = [files[i] for i in spread(len(files), limit)]
    refuse(data, [problem for path in chosen if (problem := image_problem(path))])
    samples = tuple(Sample(path.relative_to(data).as_posix(), path) for path in chosen)
    return Dataset("images", manifest.task, data.resolve().name, samples, len(files))
