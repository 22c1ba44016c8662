"""A finished run as COCO results or for FiftyOne, written row by row from the tables."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import class_names, published_classes
from ..errors import BadInput
from ..files import staged, staging_directory, write_text
from ..types import Task
from .images import arrow
from .plan import Plan

#: The columns of a detection.
_FOUND = ("boxes", "scores", "class_ids", "labels", "masks")


def check_export(option: str, task: Task) -> None:
    """Raise BadInput for a kind of export, named by its option, that a task does not have."""
    if option.endswith("coco") and task is not Task.DETECTION:
        raise BadInput(f"{option} is for detection; this model is for {task}")


def write_export(kind: str, plan: Plan) -> Path:
    """Write `coco.json`, or `fiftyone/samples.json` for `fiftyone.types.LegacyFiftyOneDataset`."""
    if kind == "coco":
        published = plan.record.labels in ((), class_names(Task.DETECTION))
        names = chain.from_iterable(shard.names for shard in plan.shards(pending=False))
        items = _coco_results(_rows(plan), _image_ids(names), published)
        path, around = plan.folder / "coco.json", ("[", "]")
    else:
        path, items = plan.folder / "fiftyone" / "samples.json", _samples(plan)
        around = ('{"samples": [', "]}")
    with staged(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(around[0])
        for i, item in enumerate(items):
            file.write((",\n" if i else "\n") + json.dumps(item))
        file.write(f"\n{around[1]}\n")
    return path


def write_coco(documents: Iterable[Mapping[str, Any]], images: Iterable[str], path: Path) -> None:
    """Write detections as COCO results, of `Prediction.as_json`; `images` are all that were asked
    about. The ids are COCO's own where each label is COCO's of its class id."""
    rows = []
    places = {name: place for place, name in enumerate(images)}
    for document in documents:
        count = document["outputs"]["num_detections"][0]
        row = {name: document["outputs"][name][:count] for name in _FOUND}
        row["masks"] = [json.loads(mask) for mask in row["masks"]]
        rows.append({"index": places[document["image"]], **row})
    names = dict(enumerate(class_names(Task.DETECTION)))
    published = all(names.get(i) == label for row in rows for _, _, i, label, _ in _found(row))
    found = [*_coco_results(rows, _image_ids(places), published)]
    write_text(path, json.dumps(found, indent=1) + "\n")


def _rows(plan: Plan) -> Iterator[dict[str, Any]]:
    for shard in range(plan.record.shards):
        yield from arrow().parquet.read_table(plan.tables(shard)[0]).to_pylist()


def _found(row: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Box, score, class id, label and mask of each detection."""
    return zip(*(row[name] for name in _FOUND), strict=True)


def _image_ids(names: Iterable[str]) -> NDArray[np.int64]:
    """An id for each image: the number that its file is called, where no other image is called by
    it; else its place, counted on from the largest such number."""
    stems = (Path(name).stem for name in names)
    ids = np.fromiter((int(s) if s.isdecimal() and len(s) < 16 else -1 for s in stems), np.int64)
    _, group, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    own = (ids >= 0) & (sizes[group] == 1)
    return np.where(own, ids, ids[own].max(initial=-1) + 1 + np.arange(len(ids)))


def _coco_results(
    rows: Iterable[dict[str, Any]], image_ids: NDArray[np.int64], published: bool
) -> Iterator[dict[str, Any]]:
    """COCO's own category ids where the classes are the published ones, else class ids."""
    classes = published_classes(Task.DETECTION) if published else ()
    categories = {i: int(row["coco_id"]) for i, row in enumerate(classes)}
    for row in rows:
        for (left, top, right, bottom), score, class_id, _, mask in _found(row):
            yield {
                "image_id": int(image_ids[row["index"]]),
                "category_id": categories.get(class_id, class_id),
                "bbox": [left, top, right - left, bottom - top],
                "score": score,
                "segmentation": mask,
            }


def _samples(plan: Plan) -> Iterator[dict[str, Any]]:
    masks = plan.folder.absolute() / "fiftyone" / "masks"
    with staging_directory(masks) as staging:
        for row in _rows(plan):
            if "boxes" in row:
                found = {"_cls": "Detections", "detections": [*map(_detection, _found(row))]}
            elif "class_map" in row:
                name = f"{row['index']:08}.png"
                masks.mkdir(exist_ok=True)
                (staging / name).write_bytes(row["class_map"])
                (staging / name).replace(masks / name)
                found = {"_cls": "Segmentation", "mask_path": str(masks / name)}
            else:
                label, score = row["labels"][0], row["scores"][0]
                found = {"_cls": "Classification", "label": label, "confidence": score}
            yield {"filepath": row["image"], "predictions": found}


def _detection(found: tuple[Any, ...]) -> dict[str, Any]:
    (left, top, right, bottom), score, _, label, mask = found
    height, width = mask["size"]
    box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
    return {"_cls": "Detection", "label": label, "bounding_box": box, "confidence": score}
