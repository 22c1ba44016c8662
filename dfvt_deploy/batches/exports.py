"""A finished run as COCO results or for FiftyOne, written row by row from the tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data import class_names, published_classes
from ..errors import BadInput
from ..files import staged
from ..types import Task
from .plan import Plan
from .shards import arrow


def check_export(kind: str, task: Task) -> None:
    """Raise BadInput for a kind of export that a task does not have."""
    if kind == "coco" and task is not Task.DETECTION:
        raise BadInput(f"--export coco is for detection; this model is for {task}")


def write_export(kind: str, plan: Plan) -> Path:
    """Write `coco.json`, or `fiftyone/samples.json` for `fiftyone.types.LegacyFiftyOneDataset`."""
    if kind == "coco":
        path, items, around = plan.folder / "coco.json", _coco_results(plan), ("[", "]")
    else:
        path, items = plan.folder / "fiftyone" / "samples.json", _samples(plan)
        around = ('{"samples": [', "]}")
    with staged(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(around[0])
        for i, item in enumerate(items):
            file.write((",\n" if i else "\n") + json.dumps(item))
        file.write(f"\n{around[1]}\n")
    return path


def _rows(plan: Plan) -> Iterator[dict[str, Any]]:
    for shard in range(plan.record.shards):
        yield from arrow().parquet.read_table(plan.tables(shard)[0]).to_pylist()


def _found(row: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Box, score, class id, label and mask of each detection."""
    names = ("boxes", "scores", "class_ids", "labels", "masks")
    return zip(*(row[name] for name in names), strict=True)


def _coco_results(plan: Plan) -> Iterator[dict[str, Any]]:
    """COCO's own ids where the classes are COCO's, and where a file's name is an image's number;
    else class ids and indices."""
    ids: dict[int, int] = {}
    if plan.record.labels in ((), class_names(Task.DETECTION)):
        ids = {i: int(row["coco_id"]) for i, row in enumerate(published_classes(Task.DETECTION))}
    for row in _rows(plan):
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
