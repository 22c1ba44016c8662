"""ImageNet: images in one folder for each class, or named in a list file."""

import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import BadInput
from ...image_files import SUFFIXES, find_images, spread
from ...manifest import Manifest
from ...text_files import read_lines
from ...types import Task
from .checks import image_problem, published_order_problems, refuse
from .class_folders import LIST_INSTEAD, class_id_by_wnid, folder_class_ids
from .sample import ClassTruth, Dataset, Sample

#: Name, path and class id of each image.
_Found = list[tuple[str, Path, int]]

#: A class id: digits, few enough to be parsed whatever they say.
_CLASS_ID = re.compile(r"[0-9]{1,9}")


def open_imagenet(data: Path, manifest: Manifest, limit: int | None) -> Dataset:
    """The images of `data` (or `data/val`), in one folder for each class, or of a list file. Its
    lines are a path relative to the file, and a class id, a WordNet id or one of the model's
    labels."""
    problems = published_order_problems(Task.CLASSIFICATION, manifest.labels)
    notes: list[str] = []
    if data.is_file():
        found = _from_list(data, manifest.labels, problems)
    else:
        root = data / "val" if (data / "val").is_dir() else data
        found = _from_folders(root, manifest.labels, problems, notes)
    refuse(data, problems)
    chosen = spread(found, limit)
    refuse(data, [p for _, path, _ in chosen if (p := image_problem(path))])
    samples = tuple(
        Sample(name, path, ClassTruth(class_id, manifest.labels[class_id]))
        for name, path, class_id in chosen
    )
    return Dataset(
        "imagenet", Task.CLASSIFICATION, data.resolve().name, samples, len(found), tuple(notes)
    )


def _from_folders(
    root: Path, labels: Sequence[str], problems: list[str], notes: list[str]
) -> _Found:
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise BadInput(f"{root} has no class folders; {LIST_INSTEAD}")
    ids = folder_class_ids(folders, labels, problems, notes)
    if len(folders) < len(labels):
        notes.append(f"images of {len(folders)} of the model's {len(labels)} classes")
    found = []
    for folder in folders:
        images = find_images(root / folder)
        if not images:
            problems.append(f"{root / folder} holds no image ({', '.join(SUFFIXES)})")
        if folder in ids:
            found += [(p.relative_to(root).as_posix(), p, ids[folder]) for p in images]
    return found


def _from_list(data: Path, labels: Sequence[str], problems: list[str]) -> _Found:
    found, seen = [], set()
    for number, line in enumerate(read_lines(data, "list of images", allowed="\t"), 1):
        if not line.strip():
            continue
        name, label = _fields(line)
        class_id = _class_id(label, labels)
        if class_id is None:
            hint = "; class ids begin at 0" if label == str(len(labels)) else ""
            problems.append(
                f"line {number}: {label!r} is no class id 0..{len(labels) - 1}, WordNet id or "
                f"label of the model{hint}"
            )
        elif name in seen:
            problems.append(f"line {number}: {name} is listed twice")
        else:
            found.append((name, data.parent / name, class_id))
        seen.add(name)
    if not seen:
        problems.append("it lists no image; give one `path label` a line")
    return found


def _fields(line: str) -> tuple[str, str]:
    """The path and the label of a line, separated by a tab or else by the last space."""
    if "\t" in line:
        name, _, label = line.partition("\t")
    else:
        name, _, label = line.strip().rpartition(" ")
    return name.strip(), label.strip()


def _class_id(label: str, labels: Sequence[str]) -> int | None:
    """The class id that a label of a list file stands for, or None if it is unknown."""
    if _CLASS_ID.fullmatch(label):
        return int(label) if int(label) < len(labels) else None
    if label in labels:
        return labels.index(label)
    return class_id_by_wnid(labels).get(label)
