"""ImageNet: images in one folder for each class, or named in a list file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...data import class_names, published_classes
from ...errors import BadInput
from ...image_files import SUFFIXES, find_images
from ...manifest import Manifest
from ...text_files import read_lines
from ...types import Task
from .sample import ClassTruth, Dataset, Sample, chosen_of, published_order_problems, refuse

Names = Sequence[str]

#: Name, path and class id of each image.
_Found = list[tuple[str, Path, int]]

#: The class ids of class folders, by folder.
_Ids = dict[str, int]

_WNID = re.compile(r"n[0-9]{8}")

#: A class id: digits, few enough to be parsed whatever they say.
_NUMBER = re.compile(r"[0-9]{1,9}")
_DIGITS = re.compile(r"([0-9]+)")

LIST_INSTEAD = "name each image's class id in a list file instead: `path class_id` lines"


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
    samples = [Sample(name, path, ClassTruth(i, manifest.labels[i])) for name, path, i in found]
    chosen = chosen_of(data, samples, limit)
    return Dataset(data.resolve().name, chosen, len(samples), tuple(notes))


def _from_folders(root: Path, labels: Names, problems: list[str], notes: list[str]) -> _Found:
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


def _from_list(data: Path, labels: Names, problems: list[str]) -> _Found:
    found, seen = [], set()
    for number, line in enumerate(read_lines(data, "list of images", allowed="\t"), 1):
        if not line.strip():
            continue
        # A tab separates path and label, or else the last space.
        parts = line.partition("\t") if "\t" in line else line.strip().rpartition(" ")
        name, label = parts[0].strip(), parts[2].strip()
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


def _class_id(label: str, labels: Names) -> int | None:
    """The class id that a label of a list file stands for, or None if it is unknown."""
    if _NUMBER.fullmatch(label):
        return int(label) if int(label) < len(labels) else None
    return labels.index(label) if label in labels else class_id_by_wnid(labels).get(label)


def folder_class_ids(folders: Names, labels: Names, problems: list[str], notes: list[str]) -> _Ids:
    """The class ids of class folders, which are given in sorted order; docs/datasets.md says what
    decides. What is wrong, and what is worth knowing, is added to `problems` and `notes`."""
    kinds = {_kind(folder) for folder in folders}
    if kinds == {"a WordNet id"}:
        return _ids_of_wnids(folders, labels, problems)
    if any(folder in labels for folder in folders):
        return _ids_of_labels(folders, labels, problems)
    if len(kinds) > 1:
        examples = {_kind(folder): folder for folder in reversed(folders)}
        mixed = " and ".join(sorted(f"{name!r} ({kind})" for kind, name in examples.items()))
        problems.append(
            f"the class folders are of different kinds, such as {mixed}; {LIST_INSTEAD}"
        )
        return {}
    if kinds == {"a number"}:
        return _ids_of_numbers(folders, labels, problems, notes)
    notes.append(
        "no folder has the name of one of the model's labels: numbered in sorted order, "
        f"{folders[0]!r} being class 0, {labels[0]!r}"
    )
    return _ids_by_order(folders, labels, problems)


def _kind(folder: str) -> str:
    if _WNID.fullmatch(folder):
        return "a WordNet id"
    return "a number" if _NUMBER.fullmatch(folder) else "a name"


def _ids_of_labels(folders: Names, labels: Names, problems: list[str]) -> _Ids:
    unknown = [folder for folder in folders if folder not in labels]
    problems += [f"folder {folder!r} is none of the model's labels" for folder in unknown]
    if list(labels) not in (sorted(labels), sorted(labels, key=_natural_key)):
        i = next(i for i, name in enumerate(sorted(labels)) if labels[i] != name)
        problems.append(
            "the model's labels are not in the sorted order that class folders are numbered "
            f"in: class {i} is {labels[i]!r}, in sorted order {sorted(labels)[i]!r}; correct "
            f"the --labels file of the export, or {LIST_INSTEAD}"
        )
    return {folder: labels.index(folder) for folder in folders if folder in labels}


def _ids_of_numbers(folders: Names, labels: Names, problems: list[str], notes: list[str]) -> _Ids:
    ids = {folder: int(folder) for folder in folders}
    last = len(labels) - 1
    beyond = [folder for folder, class_id in ids.items() if class_id > last]
    problems += [f"folder {name} is no class id 0..{last}; class ids begin at 0" for name in beyond]
    folder_of: dict[int, str] = {}
    for folder, class_id in ids.items():
        if (other := folder_of.setdefault(class_id, folder)) != folder:
            problems.append(f"folders {other!r} and {folder!r} are the same number")
    first = min(ids, key=lambda folder: ids[folder])
    if not problems:
        notes.append(
            "the folders are numbers and are taken as class ids: "
            f"{first!r} is class {ids[first]}, {labels[ids[first]]!r}"
        )
    return ids


def _ids_by_order(folders: Names, labels: Names, problems: list[str]) -> _Ids:
    if len(folders) != len(labels):
        problems.append(
            f"{len(folders)} class folders, the model has {len(labels)} classes; {LIST_INSTEAD}"
        )
        return {}
    by_number = sorted(folders, key=_natural_key)
    if by_number != list(folders):
        i = next(i for i, name in enumerate(by_number) if folders[i] != name)
        problems.append(
            f"the order of the class folders is not clear: class {i} is {folders[i]!r} in the "
            f"order of text, {by_number[i]!r} in the order of numbers; {LIST_INSTEAD}"
        )
    return {folder: i for i, folder in enumerate(folders)}


def _natural_key(name: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in names by value: `class2` before `class10`."""
    parts = _DIGITS.split(name)
    return [(int(part[:4000]), "") if i % 2 else (0, part) for i, part in enumerate(parts)]


def _ids_of_wnids(folders: Names, labels: Names, problems: list[str]) -> _Ids:
    if published := class_id_by_wnid(labels):
        unknown = [folder for folder in folders if folder not in published]
        problems += [f"folder {folder} is no class of ImageNet-1k" for folder in unknown]
        return {folder: published[folder] for folder in folders if folder in published}
    ids = _ids_by_order(folders, labels, problems)
    names = {row["wnid"]: row["name"] for row in published_classes(Task.CLASSIFICATION)}
    for folder, class_id in ids.items():
        own = {folder, names.get(folder, folder)}
        if labels[class_id] not in own and own & set(labels):
            problems.append(
                f"folder {folder} ({', '.join(sorted(own - {folder}))}) is class {class_id} in "
                f"sorted order, which the model calls {labels[class_id]!r}"
            )
    return ids


def class_id_by_wnid(labels: Names) -> Mapping[str, int]:
    """Class ids by WordNet id for a model with ImageNet's published labels, empty for others."""
    if tuple(labels) != class_names(Task.CLASSIFICATION):
        return {}
    rows = published_classes(Task.CLASSIFICATION)
    return {row["wnid"]: class_id for class_id, row in enumerate(rows)}
