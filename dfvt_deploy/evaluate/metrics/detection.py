"""Box and mask AP, equal to pycocotools' and quick to score again on resampled images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MissingDependency, StageFailed
from ..datasets import DetectionTruth, Sample
from .metric import ImageResult, Indices, Scorer, ScoresByScorer, as_text

#: IoU from which a detection is right, 0.50 to 0.95, and the recalls that AP averages over; both
#: as pycocotools computes them.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)

#: Objects of all sizes, and detections that count for each image and class.
_ALL_AREAS = [0.0, 1e10]
_MAX_DETECTIONS = 100

_KINDS = {"box": "bbox", "mask": "segm"}

#: A figure's thresholds among `IOU_THRESHOLDS`.
_RANGES = {"ap": slice(None), "ap50": slice(0, 1), "ap75": slice(5, 6)}


class AveragePrecision(ScoresByScorer):
    """COCO's AP of boxes and of masks: the mean over classes, recalls and IoU thresholds.

    Detections are matched with the objects once for each image, by pycocotools; what is stored
    is which were right. A detection whose label is another class's is taken for that class, as
    whoever reads the label does; one with an unknown label does not count.
    """

    names = ("box_ap", "mask_ap", "box_ap50", "box_ap75", "mask_ap50", "mask_ap75")
    resamples = 200

    def image_result(self, answers: Mapping[str, NDArray[Any]], sample: Sample) -> dict[str, Any]:
        """For each of the `classes` that occur: `objects`, the number to be found, and of its
        detections, best first, `scores` and four lists of sets of IoU thresholds (bit i is
        threshold i): `box` and `mask`, where it found something, `box_ignored` and
        `mask_ignored`, where it does not count, as on a crowd."""
        truth = sample.truth
        assert isinstance(truth, DetectionTruth)
        detections = _detections(answers, truth, sample.id)
        objects = _objects(truth)
        classes = []
        for class_id in sorted(objects.keys() | detections.keys()):
            own, found = objects[class_id], detections[class_id]
            entry: dict[str, Any] = {
                "class": class_id,
                "objects": sum(not thing["iscrowd"] for thing in own),
                "scores": [],
            }
            for kind, iou_type in _KINDS.items():
                matched = _matched(own, found, iou_type)
                entry["scores"] = matched["dtScores"]
                entry[kind] = _bits(matched["dtMatches"] > 0)
                entry[f"{kind}_ignored"] = _bits(matched["dtIgnore"])
            classes.append(entry)
        return {"id": sample.id, "classes": classes}

    def scorer(self, results: Sequence[ImageResult], names: Sequence[str] | None = None) -> Scorer:
        wanted = tuple(names or self.names)
        kinds = [kind for kind in _KINDS if any(name.startswith(kind) for name in wanted)]
        tables = {kind: _class_tables(results, kind) for kind in kinds}

        def score(indices: Indices | None = None) -> dict[str, float]:
            images = np.arange(len(results)) if indices is None else indices
            repeats = np.bincount(images, minlength=len(results))
            figures = {}
            for kind, classes in tables.items():
                curves = [c for table in classes if (c := table.precision(repeats)) is not None]
                for figure, thresholds in _RANGES.items():
                    figures[f"{kind}_{figure}"] = (
                        100 * float(np.mean(np.stack(curves)[:, thresholds]))
                        if curves
                        else float("nan")
                    )
            return {name: figures[name] for name in wanted}

        return score


@dataclass(frozen=True)
class _ClassTable:
    """All detections of one class, image after image.

    objects int64 (images,): objects to be found on each image of the dataset.
    images int64 (m,): those images with detections; detections of image i are the rows
        `starts[i]` to `starts[i] + lengths[i]`.
    scores (d,); right, counted bool (thresholds, d).
    """

    objects: NDArray[np.int64]
    images: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]

    def precision(self, repeats: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Interpolated precision (thresholds, recalls) of each image taken `repeats` times, or
        None if there is nothing to be found. Equal scores keep the order of the images."""
        total = int(self.objects @ repeats)
        if total == 0:
            return None
        rows = self._rows(repeats[self.images])
        rows = rows[np.argsort(-self.scores[rows], kind="stable")]
        counted = self.counted[:, rows]
        right = self.right[:, rows] & counted
        hits = np.cumsum(right, axis=1, dtype=np.float64)
        misses = np.cumsum(~right & counted, axis=1, dtype=np.float64)
        precision = hits / (hits + misses + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # Beyond the recall that was reached, precision is 0.
        precision = np.pad(precision, ((0, 0), (0, 1)))
        recall = hits / total
        at = np.stack([np.searchsorted(line, RECALLS, side="left") for line in recall])
        return np.take_along_axis(precision, at, axis=1)

    def _rows(self, repeats: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the images, each image as often as told, one copy after the other."""
        starts = np.repeat(self.starts, repeats)
        lengths = np.repeat(self.lengths, repeats)
        ends = np.cumsum(lengths)
        offsets = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return np.repeat(starts, lengths) + offsets


def _class_tables(results: Sequence[ImageResult], kind: str) -> list[_ClassTable]:
    entries = defaultdict(list)
    for image, result in enumerate(results):
        for entry in result["classes"]:
            entries[entry["class"]].append((image, entry))
    tables = []
    for _, found in sorted(entries.items()):
        objects = np.zeros(len(results), np.int64)
        for image, entry in found:
            objects[image] = entry["objects"]
        detected = [(image, entry) for image, entry in found if entry["scores"]]
        lengths = np.array([len(entry["scores"]) for _, entry in detected], np.int64)
        tables.append(
            _ClassTable(
                objects=objects,
                images=np.array([image for image, _ in detected], np.int64),
                starts=np.cumsum(lengths) - lengths,
                lengths=lengths,
                scores=np.array([s for _, entry in detected for s in entry["scores"]], np.float64),
                right=_from_bits([bits for _, entry in detected for bits in entry[kind]]),
                counted=~_from_bits(
                    [bits for _, entry in detected for bits in entry[f"{kind}_ignored"]]
                ),
            )
        )
    return tables


def _bits(by_threshold: NDArray[np.bool_]) -> list[int]:
    """(thresholds, n) to n sets of thresholds."""
    powers = 1 << np.arange(len(IOU_THRESHOLDS))
    sets: list[int] = (powers @ by_threshold.astype(np.int64)).tolist()
    return sets


def _from_bits(sets: Sequence[int]) -> NDArray[np.bool_]:
    powers = 1 << np.arange(len(IOU_THRESHOLDS))[:, None]
    return (np.array(sets, np.int64) & powers) > 0


def _detections(
    answers: Mapping[str, NDArray[Any]], truth: DetectionTruth, name: str
) -> defaultdict[int, list[dict[str, Any]]]:
    """Detections by class, as pycocotools takes them."""
    count = int(answers["num_detections"].item())
    boxes = answers["boxes"].reshape(-1, 4)[:count].astype(np.float64)
    scores = answers["scores"].reshape(-1)[:count]
    class_ids = answers["class_ids"].reshape(-1)[:count].tolist()
    if "labels" in answers:
        labels = [as_text(label) for label in answers["labels"].reshape(-1)[:count]]
        class_ids = [
            class_id
            if 0 <= class_id < len(truth.labels) and label == truth.labels[class_id]
            else _class_of(label, truth.labels)
            for class_id, label in zip(class_ids, labels, strict=True)
        ]
    masks = [json.loads(as_text(mask)) for mask in answers["masks"].reshape(-1)[:count]]
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for i, (box, class_id, mask) in enumerate(zip(boxes, class_ids, masks, strict=True)):
        if tuple(mask["size"]) != truth.size:
            raise StageFailed(
                f"{name}: a mask is {mask['size'][0]}x{mask['size'][1]}, the image "
                f"{truth.size[0]}x{truth.size[1]}"
            )
        if class_id is not None:
            left, top, right, bottom = box.tolist()
            found[class_id].append(
                {
                    "id": i + 1,
                    "score": float(scores[i]),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "segmentation": mask,
                }
            )
    return found


def _class_of(label: str, labels: Sequence[str]) -> int | None:
    return labels.index(label) if label in labels else None


def _objects(truth: DetectionTruth) -> defaultdict[int, list[dict[str, Any]]]:
    """Objects by class, as pycocotools takes them.

    Their ids begin at 1: in pycocotools an object with id 0 is never found.
    """
    objects: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for i, thing in enumerate(truth.objects):
        crowd = int(thing.get("iscrowd", 0))
        objects[thing["category_id"]].append(
            {
                "id": i + 1,
                "bbox": thing["bbox"],
                "area": thing.get("area", thing["bbox"][2] * thing["bbox"][3]),
                "segmentation": _run_lengths(thing["segmentation"], truth.size),
                "iscrowd": crowd,
                "ignore": crowd,
            }
        )
    return objects


def _run_lengths(segmentation: Any, size: tuple[int, int]) -> Any:
    """Polygons, or run lengths in either form, to pycocotools' compressed run lengths."""
    mask = _pycocotools("mask")
    if isinstance(segmentation, list):
        return mask.merge(mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return mask.frPyObjects(segmentation, *size)
    return segmentation


def _matched(
    objects: list[dict[str, Any]], detections: list[dict[str, Any]], iou_type: str
) -> Mapping[str, Any]:
    """pycocotools' own matching of one class on one image.

    Its evaluation is given the objects and detections directly, which is what its `evaluate` does
    from files; that way nothing is copied or printed.
    """
    evaluation = _pycocotools("cocoeval").COCOeval(iouType=iou_type)
    evaluation.params.maxDets = [_MAX_DETECTIONS]
    evaluation.params.iouThrs = IOU_THRESHOLDS
    evaluation._gts[0, 0], evaluation._dts[0, 0] = objects, detections
    evaluation.ious = {(0, 0): evaluation.computeIoU(0, 0)}
    matched: Mapping[str, Any] = evaluation.evaluateImg(0, 0, _ALL_AREAS, _MAX_DETECTIONS)
    return matched


def _pycocotools(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"pycocotools.{module}")
    except ImportError:
        raise MissingDependency("pycocotools", "validate") from None
