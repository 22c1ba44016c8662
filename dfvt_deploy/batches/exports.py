"""A finished run as COCO results or for FiftyOne, written row by row from the tables."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data import class_names, published_classes
from ..errors import BadInput
from ..files import staged, write_text
from ..types import Task
from .plan import Plan
from .shards import arrow

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
        items, around = _coco_results(_rows(plan), published), ("[", "]")
        path = plan.folder / "coco.json"
    else:
        path, items = plan.folder / "fiftyone" / "samples.json", _samples(plan)
        around = ('{"samples": [', "]}")
    with staged(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(around[0])
        for i, item in enumerate(items):
            file.write((",\n" if i else "\n") + json.dumps(item))
        file.write(f"\n{around[1]}\n")
    return path


def write_coco(documents: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write detections as COCO results, of `Prediction.as_json`. The ids are COCO's own where each
    label is COCO's of its class id."""
    rows = []
    for index, document in enumerate(documents):
        count = document["outputs"]["num_detections"][0]
        row = {name: document["outputs"][name][:count] for name in _FOUND}
        row["masks"] = [json.loads(mask) for mask in row["masks"]]
        rows.append({"image": document["image"], "index": index, **row})
    names = dict(enumerate(class_names(Task.DETECTION)))
    published = all(names.get(i) == label for row in rows for _, _, i, label, _ in _found(row))
    write_text(path, json.dumps([*_coco_results(rows, published)], indent=1) + "\n")


def _rows(plan: Plan) -> Iterator[dict[str, Any]]:
    for shard in range(plan.record.shards):
        yield from arrow().parquet.read_table(plan.tables(shard)[0]).to_pylist()


def _found(row: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Box, score, class id, label and mask of each detection."""
    return zip(*(row[name] for name in _FOUND), strict=True)


def _coco_results(rows: Iterable[dict[str, Any]], published: bool) -> Iterator[dict[str, Any]]:
    """COCO's own ids where the classes are the published ones, and where a file's name is an
    image's number; else class ids and indices."""
    classes = published_classes(Task.DETECTION) if published else ()
    ids = {i: int(row["coco_id"]) for i, row in enumerate(classes)}
    for row in rows:
        stem = Path(row["image"]).stem
        for (left, top, right, bottom), score, class_id, _, mask in _found(row):
            yield {
                "image_id": int(stem) if stem.isdecimal() else row["index"],
                "category_id": ids.get(class_id, class_id),
                "bbox": [left, top, right - left, bottom - top],
                "score": score,
                "segmentation": mask,
            }


def _samples(plan: Plan) -> Iterator[dict[str, Any]]:
    for row in _rows(plan):
        if "boxes" in row:
            found = {"_cls": "Detections", "detections": [*map(_detection, _found(row))]}
        elif "class_map" in row:
            path = plan.folder.absolute() / "fiftyone" / "masks" / f"{row['index']:08}.png"
            with staged(path) as temporary:
                temporary.write_bytes(row["class_map"])
            found = {"_cls": "Segmentation", "mask_path": str(path)}
        else:
            label, score = row["labels"][0], row["scores"][0]
            found = {"_cls": "Classification", "label": label, "confidence": score}
        yield {"filepath": row["image"], "predictions": found}


def _detection(found: tuple[Any, ...]) -> dict[str, Any]:
    (left, top, right, bottom), score, _, label, mask = found
    height, width = mask["size"]
    box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
    return {"_cls": "Detection", "label": label, "bounding_box": box, "confidence": score}
