"""Datasets: images with the truth about them, checked before hours are spent on them.

    dataset = open_dataset("imagenet", Path("imagenet/val"), artifact.manifest, limit=1000)
    for sample in dataset.samples:
        image = decode_image(sample.path.read_bytes())

docs/datasets.md describes each kind of dataset. A new kind is a file with its opener and one line
of `KINDS`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import BadInput
from ...image_files import SUFFIXES, find_images
from ...manifest import Manifest
from ...types import Task
from .ade20k import open_ade20k
from .coco import open_coco
from .imagenet import open_imagenet
from .sample import Dataset, Sample, chosen_of, refuse


def open_images(data: Path, manifest: Manifest, limit: int | None) -> Dataset:
    """All images of a folder and its subfolders, for a model of any task."""
    files = find_images(data)
    if not files:
        refuse(data, [f"it is no folder with images ({', '.join(SUFFIXES)})"])
    samples = [Sample(path.relative_to(data).as_posix(), path) for path in files]
    return Dataset(data.resolve().name, chosen_of(data, samples, limit), len(samples))


#: The task that the labels of each kind are for (None: it has no labels and suits every task), and
#: the function that opens and checks it.
KINDS: Mapping[str, tuple[Task | None, Callable[[Path, Manifest, int | None], Dataset]]] = {
    "imagenet": (Task.CLASSIFICATION, open_imagenet),
    "coco": (Task.DETECTION, open_coco),
    "ade20k": (Task.SEGMENTATION, open_ade20k),
    "images": (None, open_images),
}


def open_dataset(
    kind: str, data: str | Path, manifest: Manifest, limit: int | None = None
) -> Dataset:
    """Open and check a dataset for one model, from its folder or file, as docs/datasets.md
    describes it for each kind. At most `limit` images, 1 or more, are taken, evenly spread over all
    and always the same. The class ids of the truth are the model's. Raises BadInput where the
    dataset is for another task than the model, or cannot be used; the message lists everything that
    is wrong with it."""
    task, open_kind = KINDS[kind]
    if task not in (None, manifest.task):
        fitting = [name for name, (other, _) in KINDS.items() if other is manifest.task]
        raise BadInput(
            f"{kind} is for {task}, {manifest.name} is a {manifest.task} model; use "
            f"{', '.join([*fitting, 'images'])} (images has no labels and measures agreement only)"
        )
    data = Path(data)
    try:
        if not data.exists():
            raise BadInput(f"{data} does not exist; give the dataset's folder or file")
        if not (data.is_dir() or data.is_file()):
            raise BadInput(f"{data} is neither a folder nor a regular file")
        return open_kind(data, manifest, limit)
    except OSError as error:
        raise BadInput(
            f"{error.filename or data} cannot be read: {error.strerror or error}"
        ) from error
