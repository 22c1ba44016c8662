"""COCO: images and an `instances_*.json`, checked before anything is computed with it."""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data import class_names, published_classes
from ...errors import BadInput
from ...json_files import read_json
from ...manifest import Manifest
from ...tasks.images import DEFAULT_LIMITS
from ...types import Task
from .coco_objects import Entry, objects_by_image, repeated
from .sample import Dataset, DetectionTruth, Sample, chosen_of, published_order_problems, refuse

_PATTERNS = ("instances_*.json", "annotations/instances_*.json")

#: Largest annotation file that is read: 256 MiB. COCO's file of 5,000 images has 20 MB.
_MAX_BYTES = 256 * 2**20

#: The fields that every entry of a table must have. Those of an object are checked with it.
_FIELDS: Mapping[str, Mapping[str, type]] = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}

_TYPE_NAMES = {int: "a whole number", str: "a text"}


def open_coco(data: Path, manifest: Manifest, limit: int | None) -> Dataset:
    """An `instances_*.json`, or a folder with one, and the images beside it."""
    path = _annotation_file(data)
    images, annotations, categories = _read(path)
    problems = published_order_problems(Task.DETECTION, manifest.labels)
    class_ids = _class_ids(categories, manifest.labels, problems)
    objects = objects_by_image(images, annotations, class_ids, problems)
    refuse(path, problems)

    images = sorted(images, key=lambda image: image["id"])
    directory = _image_directory(path, images[0]["file_name"])
    samples = []
    for image in images:
        size, found = (image["height"], image["width"]), tuple(objects.get(image["id"], ()))
        truth = DetectionTruth(size, found, manifest.labels)
        samples.append(Sample(image["file_name"], directory / image["file_name"], truth))
    chosen = chosen_of(path, samples, limit)
    empty = sum(not getattr(sample.truth, "objects", ()) for sample in chosen)
    notes = [f"{empty} of {len(chosen)} images have no annotation"] if empty else []
    if len(class_ids) < manifest.num_classes:
        notes.append(f"{len(class_ids)} of the model's {manifest.num_classes} classes")
    return Dataset(path.stem, chosen, len(samples), tuple(notes))


def _annotation_file(data: Path) -> Path:
    if data.is_file():
        return data
    found = [path for pattern in _PATTERNS for path in sorted(data.glob(pattern))]
    if len(found) > 1:
        found = [path for path in found if path.stem.startswith("instances_val")] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadInput(f"{data} has no {' or '.join(_PATTERNS)}; give the file itself as --data")
    names = ", ".join(str(path.relative_to(data)) for path in found)
    raise BadInput(f"{data} has several annotation files ({names}); give one of them as --data")


def _read(path: Path) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """The images, annotations and categories of a file, with the fields that they must have."""
    content = read_json(path, _MAX_BYTES)
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds a {type(content).__name__}, no COCO annotations")
    problems: list[str] = []
    for table, fields in _FIELDS.items():
        rows = content.get(table)
        if not isinstance(rows, list) or not rows:
            raise BadInput(
                f"{path} has no {table}; is it a COCO instances file of labelled images?"
            )
        found = ((i, _entry_problem(row, fields)) for i, row in enumerate(rows))
        problems += [f"entry {i} of {table} {problem}" for i, problem in found if problem]
    refuse(path, problems)
    images, annotations, categories = (content[table] for table in _FIELDS)
    most = DEFAULT_LIMITS.max_pixels
    for image in images:
        height, width = image["height"], image["width"]
        if height < 1 or width < 1 or height * width > most:
            size = f"{height}x{width}; images have 1 to {most:,} pixels"
            problems.append(f"image {image['id']} is {size}")
    problems += repeated("images", "id", images) + repeated("images", "file_name", images)
    refuse(path, problems)
    return images, annotations, categories


def _entry_problem(entry: Any, fields: Mapping[str, type]) -> str | None:
    """The reason why an entry of a table is wrong, to follow the entry's name, or None."""
    if not isinstance(entry, dict):
        return f"is {reprlib.repr(entry)}, not an object with {', '.join(fields)}"
    for field, kind in fields.items():
        # bool is a kind of int, so isinstance would accept true as a number.
        if type(entry.get(field)) is not kind:
            found = f"the {field} {reprlib.repr(entry[field])}" if field in entry else f"no {field}"
            return f"has {found}; it must be {_TYPE_NAMES[kind]}"
    if type(entry.get("id", 0)) is not int:
        return f"has the id {reprlib.repr(entry['id'])}; it must be a whole number"
    return None


def _class_ids(
    categories: Sequence[Entry], labels: Sequence[str], problems: list[str]
) -> dict[int, int]:
    """The model's class ids by category id: categories are matched with the labels by name, or, if
    no name is a label, in the order of their ids. Problems are added to the list."""
    names = {category["id"]: category["name"] for category in categories}
    for field in ("id", "name"):
        problems += repeated("categories", field, categories)
    if tuple(labels) == class_names(Task.DETECTION):
        published = {int(r["coco_id"]): r["name"] for r in published_classes(Task.DETECTION)}
        wrong = [key for key, name in sorted(names.items()) if published.get(key, name) != name]
        problems += [f"category {i} is {names[i]!r}, in COCO it is {published[i]!r}" for i in wrong]
    others = [(key, name) for key, name in sorted(names.items()) if name not in labels]
    if len(others) < len(names):
        problems += [f"category {key} {n!r} is none of the model's labels" for key, n in others]
        return {key: labels.index(n) if n in labels else 0 for key, n in names.items()}
    if len(names) != len(labels):
        problems.append(
            f"{len(names)} categories, none named as one of the model's {len(labels)} labels"
        )
    return {key: i for i, key in enumerate(sorted(names))}


def _image_directory(path: Path, first: str) -> Path:
    """The folder of the images, found beside the annotation file by its first image."""
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    split = path.stem.removeprefix("instances_")
    candidates = [root / split, root / "images" / split, root / "images", root]
    for folder in candidates:
        if (folder / first).is_file():
            return folder
    places = ", ".join(map(str, candidates))
    raise BadInput(f"the first image of {path}, {first}, is missing; looked in {places}")
