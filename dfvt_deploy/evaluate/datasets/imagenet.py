"""ImageNet: a folder a class, or a list file."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ...artifact import Manifest
from ...data import DIRECTORY, class_names
from ...errors import BadInput
from ...types import Task
from .checks import SUFFIXES, image_problem, images_below, published_order_problem, refuse
from .sample import ClassTruth, Dataset, Sample, spread

_WNID = re.compile(r"n\d{8}")

_EXPLICIT = "name each image's class id in a list file instead: `path class_id` lines"


def open_imagenet(data: Path, manifest: Manifest, limit: int | None) -> Dataset:
    """Images of `data` (or `data/val`), one folder a class, or of a list file `path label`.

    Folders named by WordNet ids have the published class ids; others are matched with the
    model's labels by name, or, where the labels are no such names, numbered in sorted order.

    In a list file, paths are relative to it and a label is a class id, a WordNet id or one of the
    model's labels.

    Raises:
        BadInput: with everything that is wrong.
    """
    problems: list[str] = []
    notes: list[str] = []
    if problem := published_order_problem(Task.CLASSIFICATION, manifest.labels):
        problems.append(problem)
    if data.is_file():
        found = _from_list(data, manifest, problems)
    else:
        root = data / "val" if (data / "val").is_dir() else data
        found = _from_folders(root, manifest, problems, notes)
    refuse(data, problems)
    chosen = [found[i] for i in spread(len(found), limit)]
    refuse(data, [p for _, path, _ in chosen if (p := image_problem(path))])
    samples = tuple(
        Sample(name, path, ClassTruth(class_id, manifest.labels[class_id]))
        for name, path, class_id in chosen
    )
    return Dataset(
        "imagenet", Task.CLASSIFICATION, data.resolve().name, samples, len(found), tuple(notes)
    )


#: Name, path and class id of an image.
_Found = list[tuple[str, Path, int]]


def _from_folders(root: Path, manifest: Manifest, problems: list[str], notes: list[str]) -> _Found:
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise BadInput(f"{root} has no class folders; {_EXPLICIT}")
    ids = class_ids_of(folders, manifest.labels, problems, notes)
    if len(folders) < manifest.num_classes:
        notes.append(f"images of {len(folders)} of the model's {manifest.num_classes} classes")
    found = []
    for folder in folders:
        images = images_below(root / folder)
        if not images:
            problems.append(f"{root / folder} holds no image ({', '.join(sorted(SUFFIXES))})")
        if folder in ids:
            found += [(p.relative_to(root).as_posix(), p, ids[folder]) for p in images]
    return found


def class_ids_of(
    folders: Sequence[str], labels: Sequence[str], problems: list[str], notes: list[str]
) -> dict[str, int]:
    """Class ids of sorted class folders; what is wrong or worth knowing is added to the lists."""
    if all(_WNID.fullmatch(folder) for folder in folders):
        return _ids_of_wnids(folders, labels, problems)
    known = [folder for folder in folders if folder in labels]
    if known:
        problems += [
            f"folder {folder!r} is none of the model's labels"
            for folder in folders
            if folder not in labels
        ]
        if list(labels) != sorted(labels):
            i = next(i for i, name in enumerate(sorted(labels)) if labels[i] != name)
            problems.append(
                "the model's labels are not in the sorted order that class folders are numbered "
                f"in: class {i} is {labels[i]!r}, in sorted order {sorted(labels)[i]!r}; correct "
                f"the --labels file of the export, or {_EXPLICIT}"
            )
        return {folder: labels.index(folder) for folder in known}
    notes.append(
        "no folder has the name of one of the model's labels: numbered in sorted order, "
        f"{folders[0]!r} being class 0, {labels[0]!r}"
    )
    return _ids_by_order(folders, labels, problems)


def _ids_by_order(
    folders: Sequence[str], labels: Sequence[str], problems: list[str]
) -> dict[str, int]:
    if len(folders) != len(labels):
        problems.append(
            f"{len(folders)} class folders, the model has {len(labels)} classes; {_EXPLICIT}"
        )
        return {}
    return {folder: i for i, folder in enumerate(folders)}


def _ids_of_wnids(
    folders: Sequence[str], labels: Sequence[str], problems: list[str]
) -> dict[str, int]:
    published = wnids()
    if tuple(labels) == class_names(Task.CLASSIFICATION):
        problems += [
            f"folder {folder} is no class of ImageNet-1k"
            for folder in folders
            if folder not in published
        ]
        return {folder: published[folder] for folder in folders if folder in published}
    ids = _ids_by_order(folders, labels, problems)
    names = class_names(Task.CLASSIFICATION)
    for folder, class_id in ids.items():
        own = {folder, names[published[folder]]} if folder in published else {folder}
        if labels[class_id] not in own and own & set(labels):
            problems.append(
                f"folder {folder} ({', '.join(sorted(own - {folder}))}) is class {class_id} in "
                f"sorted order, which the model calls {labels[class_id]!r}"
            )
    return ids


def _from_list(data: Path, manifest: Manifest, problems: list[str]) -> _Found:
    try:
        lines = data.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{data} cannot be read as a list of images: {error}") from error
    found, seen = [], set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, label = _fields(line)
        class_id = _class_id(label, manifest.labels)
        if class_id is None:
            hint = "; class ids begin at 0" if label == str(manifest.num_classes) else ""
            problems.append(
                f"line {number}: {label!r} is no class id 0..{manifest.num_classes - 1}, WordNet "
                f"id or label of the model{hint}"
            )
        elif name in seen:
            problems.append(f"line {number}: {name} is listed twice")
        else:
            found.append((name, data.parent / name, class_id))
        seen.add(name)
    if not seen:
        problems.append("it lists no image; one `path label` a line")
    return found


def _fields(line: str) -> tuple[str, str]:
    """Path and label, apart by a tab, or by the last white space."""
    if "\t" in line:
        name, _, label = line.partition("\t")
    else:
        name, _, label = line.strip().rpartition(" ")
    return name.strip(), label.strip()


def _class_id(label: str, labels: Sequence[str]) -> int | None:
    if label.isascii() and label.isdigit():
        return int(label) if int(label) < len(labels) else None
    if label in labels:
        return labels.index(label)
    if tuple(labels) == class_names(Task.CLASSIFICATION):
        return wnids().get(label)
    return None


@cache
def wnids() -> Mapping[str, int]:
    """Class ids of ImageNet-1k by WordNet id."""
    with (DIRECTORY / "imagenet.tsv").open(encoding="utf-8", newline="") as file:
        return {row["wnid"]: i for i, row in enumerate(csv.DictReader(file, delimiter="\t"))}
