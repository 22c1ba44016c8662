"""Box and mask AP, equal to pycocotools' figures and fast to compute on resampled images.

pycocotools matches detections with objects once for each image; precision is computed here from
the stored matches, on any selection of the images.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...drawing import text
from ...errors import StageFailed, optional
from ...json_files import JsonError, parse_json
from ...runners import Tensors
from ..datasets.coco_objects import rle_problem
from ..datasets.sample import DetectionTruth, Sample
from . import Counted, Metric, Results

#: The IoU from which a detection is right (0.50 to 0.95), and the recalls that AP averages over,
#: both computed as pycocotools computes them.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)

_BITS = 1 << np.arange(len(IOU_THRESHOLDS))[:, None]

#: A function from how often each image is counted, int64 (n,), to the interpolated precision of a
#: class, float64 (10 IoU thresholds, 101 recalls); None if no image has an object of the class.
#: Detections of equal score keep the order of the images.
Curve: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.float64] | None]


def class_curve(found: Sequence[tuple[int, Mapping[str, Any]]], kind: str) -> Curve:
    """The curve of one class by `box` or `mask`, from the positions of the images that have objects
    or detections of it, and what their results say of the class."""

    def joined(name: str) -> list[Any]:
        return [value for _, entry in found for value in entry[name]]

    images = np.array([image for image, _ in found], np.int64)
    objects = np.array([entry["objects"] for _, entry in found], np.int64)
    lengths = np.array([len(entry["scores"]) for _, entry in found], np.int64)
    scores = np.array(joined("scores"), np.float64)
    all_counted = ~_from_bits(joined(f"{kind}_ignored"))  # one on a crowd does not count
    all_right = _from_bits(joined(kind)) & all_counted

    def rows_of(times: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of all detections of image `images[i]`, `times[i]` times, for all i in turn."""
        starts = np.repeat(np.cumsum(lengths) - lengths, times)
        repeated = np.repeat(lengths, times)
        offsets = np.arange(repeated.sum()) - np.repeat(np.cumsum(repeated) - repeated, repeated)
        return np.repeat(starts, repeated) + offsets

    def precision_of(repeats: NDArray[np.int64]) -> NDArray[np.float64] | None:
        times = repeats[images]
        total = int(objects @ times)
        if total == 0:
            return None
        rows = rows_of(times)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        right, counted = all_right[:, rows], all_counted[:, rows]
        hits = np.cumsum(right, axis=1, dtype=np.float64)
        misses = np.cumsum(~right & counted, axis=1, dtype=np.float64)
        precision = hits / (hits + misses + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # Precision is 0 at recalls that were not reached.
        precision = np.pad(precision, ((0, 0), (0, 1)))
        recall = hits / total
        at = np.stack([np.searchsorted(line, RECALLS, side="left") for line in recall])
        return np.take_along_axis(precision, at, axis=1)

    return precision_of


def to_bits(by_threshold: NDArray[np.bool_]) -> list[int]:
    """Pack bool (10 IoU thresholds, n) into n integers; bit i stands for threshold i."""
    return (_BITS * by_threshold).sum(axis=0).tolist()


def _from_bits(packed: Sequence[int]) -> NDArray[np.bool_]:
    return (np.array(packed, np.int64) & _BITS) > 0


#: Detections of an image and class that count.
_MAX_DETECTIONS = 100


def objects_by_class(truth: DetectionTruth) -> defaultdict[int, list[dict[str, Any]]]:
    """The objects of an image as pycocotools wants them, by class id."""
    objects: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    # In pycocotools an object with id 0 is never found.
    for object_id, thing in enumerate(truth.objects, 1):
        objects[thing.class_id].append(
            {
                "id": object_id,
                "bbox": list(thing.box),
                "area": thing.area,
                "segmentation": _compressed(thing.segmentation, truth.size),
                "iscrowd": int(thing.crowd),
                "ignore": int(thing.crowd),
            }
        )
    return objects


def match(
    objects: list[dict[str, Any]], detections: list[dict[str, Any]], iou_type: str
) -> Mapping[str, Any]:
    """Match the detections of one class on one image with its objects by `bbox` or `segm`. In the
    record that is returned, `dtScores` are the detections' scores, best first, and in the same
    order `dtMatches` and `dtIgnore` (10 IoU thresholds, detections)."""
    # Handed the lists directly, pycocotools neither copies nor prints anything.
    evaluation = optional("pycocotools.cocoeval").COCOeval(iouType=iou_type)
    evaluation.params.maxDets = [_MAX_DETECTIONS]
    evaluation.params.iouThrs = IOU_THRESHOLDS
    evaluation._gts[0, 0], evaluation._dts[0, 0] = objects, detections
    evaluation.ious = {(0, 0): evaluation.computeIoU(0, 0)}
    all_areas = [0.0, 1e10]
    return evaluation.evaluateImg(0, 0, all_areas, _MAX_DETECTIONS)


def _compressed(segmentation: Any, size: tuple[int, int]) -> Any:
    """Polygons or run lengths of a mask as pycocotools' compressed run lengths."""
    mask = optional("pycocotools.mask")
    if isinstance(segmentation, list):
        return mask.merge(mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return mask.frPyObjects(segmentation, *size)
    return segmentation


#: What is compared, and pycocotools' name for it.
_KINDS = {"box": "bbox", "mask": "segm"}

#: The IoU thresholds of each figure, as positions in `IOU_THRESHOLDS`.
_RANGES = {"ap": slice(None), "ap50": slice(0, 1), "ap75": slice(5, 6)}


class AveragePrecision(Metric):
    """COCO's AP of boxes and of masks: the mean over classes, recalls and IoU thresholds.
    pycocotools matches detections with objects once for each image, and the result of an image says
    which detections were right. A detection whose label is the name of another class counts for
    that class, because users read the label; one with an unknown label does not count."""

    names = ("box_ap", "mask_ap", "box_ap50", "box_ap75", "mask_ap50", "mask_ap75")
    resamples = 200

    def chance(self, num_classes: int) -> float:
        # Boxes placed without looking at the image hardly ever reach an IoU of 0.5.
        return 0.0

    def image_result(self, answers: Tensors, sample: Sample) -> dict[str, Any]:
        """`classes`: for each class that is annotated or answered, its `class` id, the number of
        `objects` to be found, the `scores` of the detections, best first, and for each detection
        four sets of IoU thresholds (bit i stands for threshold i): `box` and `mask`, at which it
        found an object; `box_ignored` and `mask_ignored`, at which it does not count, as on a
        crowd."""
        truth = sample.truth
        assert isinstance(truth, DetectionTruth)
        detections = _detections_by_class(answers, truth, sample.id)
        objects = objects_by_class(truth)
        classes = []
        for class_id in sorted(objects.keys() | detections.keys()):
            entry: dict[str, Any] = {
                "class": class_id,
                "objects": sum(not thing["iscrowd"] for thing in objects[class_id]),
            }
            for kind, iou_type in _KINDS.items():
                matched = match(objects[class_id], detections[class_id], iou_type)
                entry["scores"] = matched["dtScores"]
                entry[kind] = to_bits(matched["dtMatches"] > 0)
                entry[f"{kind}_ignored"] = to_bits(matched["dtIgnore"])
            classes.append(entry)
        return {"id": sample.id, "classes": classes}

    def counted(self, results: Results, names: Sequence[str]) -> Counted:
        found: defaultdict[int, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
        for image, result in enumerate(results):
            for entry in result["classes"]:
                found[entry["class"]].append((image, entry))
        kinds = [kind for kind in _KINDS if any(name.startswith(kind) for name in names)]
        curves = {k: [class_curve(found[i], k) for i in sorted(found)] for k in kinds}

        def figures_of(repeats: NDArray[np.int64]) -> dict[str, float]:
            figures = {}
            for kind, of_kind in curves.items():
                present = [c for curve in of_kind if (c := curve(repeats)) is not None]
                for figure, thresholds in _RANGES.items():
                    mean = np.mean(np.stack(present)[:, thresholds]) if present else np.nan
                    figures[f"{kind}_{figure}"] = 100 * float(mean)
            return figures

        return figures_of


METRIC = AveragePrecision()


def _detections_by_class(
    answers: Tensors, truth: DetectionTruth, name: str
) -> defaultdict[int, list[dict[str, Any]]]:
    """An image's detections by class id, for pycocotools; StageFailed for a wrong mask."""
    count = int(answers["num_detections"].item())
    boxes = answers["boxes"].reshape(-1, 4)[:count].astype(np.float64)
    scores = answers["scores"].reshape(-1)[:count]
    class_ids = answers["class_ids"].reshape(-1)[:count].tolist()
    if "labels" in answers:
        labels = text(answers["labels"].reshape(-1)[:count])
        class_ids = [_class_of(*each, truth.labels) for each in zip(class_ids, labels, strict=True)]
    masks = text(answers["masks"].reshape(-1)[:count])
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for i, (box, class_id, encoded) in enumerate(zip(boxes, class_ids, masks, strict=True)):
        try:
            mask = parse_json(encoded)
            problem = rle_problem(mask, truth.size)
        except JsonError as error:
            problem = f"is no run lengths: {error}"
        if problem:
            raise StageFailed(f"{name}: the mask of detection {i} {problem}")
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


def _class_of(class_id: int, label: str, labels: Sequence[str]) -> int | None:
    """The class that a detection's label names, or None if no class has this label."""
    if 0 <= class_id < len(labels) and label == labels[class_id]:
        return class_id
    return labels.index(label) if label in labels else None
