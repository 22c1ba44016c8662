"""COCO: images and an `instances_*.json`."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...artifact import Manifest
from ...data import DIRECTORY, class_names
from ...errors import BadInput
from ...types import Task
from .checks import image_problem, published_order_problem, refuse
from .sample import Dataset, DetectionTruth, Sample, spread

_PATTERNS = ("instances_*.json", "annotations/instances_*.json")

Entry = Mapping[str, Any]


def open_coco(data: Path, manifest: Manifest, limit: int | None) -> Dataset:
    """An `instances_*.json`, or a folder with one, and the images beside it.

    Raises:
        BadInput: with everything that is wrong.
    """
    path = _annotation_file(data)
    images, annotations, categories = _read(path)
    problems: list[str] = []
    if problem := published_order_problem(Task.DETECTION, manifest.labels):
        problems.append(problem)
    class_ids = _class_ids(categories, manifest.labels, problems)
    objects = _objects(images, annotations, {c["id"] for c in categories}, class_ids, problems)
    refuse(path, problems)

    directory = _image_directory(path, images[0]["file_name"])
    available = len(images)
    images = [images[i] for i in spread(available, limit)]
    samples = tuple(
        Sample(
            image["file_name"],
            directory / image["file_name"],
            DetectionTruth(
                (image["height"], image["width"]), tuple(objects[image["id"]]), manifest.labels
            ),
        )
        for image in images
    )
    sizes = [(image["height"], image["width"]) for image in images]
    checked = zip(samples, sizes, strict=True)
    refuse(path, [p for sample, size in checked if (p := image_problem(sample.path, size))])
    empty = sum(not objects[image["id"]] for image in images)
    notes = [f"{empty} of {len(images)} images have no annotation"] if empty else []
    if len(class_ids) < manifest.num_classes:
        notes.append(f"{len(class_ids)} of the model's {manifest.num_classes} classes")
    return Dataset("coco", Task.DETECTION, path.stem, samples, available, tuple(notes))


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
    """Images by ascending id, annotations and categories, with the fields that they must have."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds a {type(content).__name__}, no COCO annotations")
    tables = []
    for key, fields in (
        ("images", {"id": int, "file_name": str, "height": int, "width": int}),
        ("annotations", {"image_id": int, "category_id": int, "bbox": list}),
        ("categories", {"id": int, "name": str}),
    ):
        rows = content.get(key)
        if not isinstance(rows, list) or not rows:
            raise BadInput(f"{path} has no {key}; is it a COCO instances file of a labelled split?")
        for row in rows:
            for field, kind in fields.items():
                if not isinstance(row, dict) or not isinstance(row.get(field), kind):
                    raise BadInput(
                        f"{path}: an entry of {key} has no {field} ({kind.__name__}): "
                        f"{json.dumps(row)[:200]}"
                    )
        tables.append(rows)
    images, annotations, categories = tables
    return sorted(images, key=lambda image: image["id"]), annotations, categories


def _class_ids(
    categories: Sequence[Entry], labels: Sequence[str], problems: list[str]
) -> dict[int, int]:
    """Class ids by category id: by name, or in the order of ids where the model has no names."""
    names = {category["id"]: category["name"] for category in categories}
    if len(names) < len(categories):
        problems.append("two categories have the same id")
    if tuple(labels) == class_names(Task.DETECTION):
        published = _published_category_ids()
        problems += [
            f"category {key} is {name!r}, in COCO it is {labels[published[key]]!r}"
            for key, name in sorted(names.items())
            if key in published and labels[published[key]] != name
        ]
    by_name = {key: labels.index(name) for key, name in names.items() if name in labels}
    if by_name:
        problems += [
            f"category {key} {name!r} is none of the model's labels"
            for key, name in sorted(names.items())
            if key not in by_name
        ]
        return by_name
    if len(names) != len(labels):
        problems.append(
            f"{len(names)} categories, none named as one of the model's {len(labels)} labels"
        )
        return {}
    return {key: i for i, key in enumerate(sorted(names))}


def _objects(
    images: Sequence[Entry],
    annotations: Sequence[Entry],
    categories: set[int],
    class_ids: Mapping[int, int],
    problems: list[str],
) -> Mapping[int, list[Entry]]:
    """Annotations by image id, their categories being class ids."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in images}
    if len(sizes) < len(images):
        problems.append("two images have the same id")
    if len({image["file_name"] for image in images}) < len(images):
        problems.append("two images have the same file_name")
    objects: dict[int, list[Entry]] = defaultdict(list)
    for position, annotation in enumerate(annotations):
        which = f"annotation {annotation.get('id', f'number {position}')}"
        if annotation["image_id"] not in sizes:
            problems.append(f"{which} is of image {annotation['image_id']}, which is not listed")
        elif annotation["category_id"] not in categories:
            problems.append(
                f"{which} is of category {annotation['category_id']}, which is not listed"
            )
        elif len(annotation["bbox"]) != 4 or not _numbers(annotation["bbox"]):
            problems.append(f"{which} has the bbox {annotation['bbox']}, not 4 numbers")
        elif not annotation.get("segmentation"):
            problems.append(f"{which} has no segmentation, which mask AP needs")
        elif not _is_mask(annotation["segmentation"], sizes[annotation["image_id"]]):
            problems.append(
                f"{which} has a segmentation that is neither polygons (lists of 6 numbers or more, "
                "x and y in turn) nor run lengths of its image's size"
            )
        elif annotation["category_id"] in class_ids:
            class_id = class_ids[annotation["category_id"]]
            objects[annotation["image_id"]].append({**annotation, "category_id": class_id})
    return objects


def _is_mask(segmentation: Any, size: list[int]) -> bool:
    """Whether it is polygons, or run lengths of an image of this height and width."""
    if isinstance(segmentation, list):
        return all(
            isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and _numbers(p)
            for p in segmentation
        )
    if not isinstance(segmentation, dict) or segmentation.get("size") != size:
        return False
    counts = segmentation.get("counts")
    if isinstance(counts, list):
        return _numbers(counts) and sum(counts) == size[0] * size[1]
    return isinstance(counts, str)


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(v, int | float) and math.isfinite(v) for v in values)


def _image_directory(path: Path, first: str) -> Path:
    """Where the images are: beside the annotations, as COCO and others have them."""
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    split = path.stem.removeprefix("instances_")
    candidates = [root / split, root / "images" / split, root / "images", root]
    for directory in candidates:
        if (directory / first).is_file():
            return directory
    places = ", ".join(map(str, candidates))
    raise BadInput(f"the first image of {path}, {first}, is missing; looked in {places}")


def _published_category_ids() -> dict[int, int]:
    """Class ids by the category id that COCO has for them."""
    with (DIRECTORY / "coco.tsv").open(encoding="utf-8", newline="") as file:
        return {
            int(row["coco_id"]): i for i, row in enumerate(csv.DictReader(file, delimiter="\t"))
        }
