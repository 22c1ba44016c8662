"""COCO's average precision (AP) from stored matches, on any selection of the images."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import optional
from ..datasets.sample import DetectionTruth
from .metric import ImageResult

#: The IoU from which a detection is right (0.50 to 0.95), and the recalls that AP averages over,
#: both computed as pycocotools computes them.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class ClassTable:
    """All detections of one class on a dataset, image by image.

    objects: int64 (n,), the number of objects to be found on each of the n images.
    images: int64 (m,), the positions of the images that have detections.
    starts, lengths: int64 (m,); the detections of image `images[i]` are the rows from `starts[i]`
        to `starts[i] + lengths[i]` of the following arrays.
    scores: float64 (d,).
    right: bool (10, d), whether a detection found an object, by IoU threshold.
    counted: bool (10, d), whether a detection counts at all; one on a crowd does not.
    """

    objects: NDArray[np.int64]
    images: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]

    def precision(self, repeats: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Interpolated precision, float64 (10 IoU thresholds, 101 recalls); None if no image has an
        object of this class. `repeats`, int64 (n,), says how often each image is counted.
        Detections of equal score keep the order of the images."""
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
        # Precision is 0 at recalls that were not reached.
        precision = np.pad(precision, ((0, 0), (0, 1)))
        recall = hits / total
        at = np.stack([np.searchsorted(line, RECALLS, side="left") for line in recall])
        return np.take_along_axis(precision, at, axis=1)

    def _rows(self, repeats: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of image `images[i]`, `repeats[i]` times, for all i in turn."""
        starts = np.repeat(self.starts, repeats)
        lengths = np.repeat(self.lengths, repeats)
        ends = np.cumsum(lengths)
        offsets = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return np.repeat(starts, lengths) + offsets


def class_tables(results: Sequence[ImageResult], kind: str) -> list[ClassTable]:
    """A table of `box` or `mask` for each class that occurs, in the order of class ids, from what
    `AveragePrecision.image_result` gave for each image."""
    entries: dict[int, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
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
        ignored = _from_bits([b for _, entry in detected for b in entry[f"{kind}_ignored"]])
        tables.append(
            ClassTable(
                objects=objects,
                images=np.array([image for image, _ in detected], np.int64),
                starts=np.cumsum(lengths) - lengths,
                lengths=lengths,
                scores=np.array([s for _, entry in detected for s in entry["scores"]], np.float64),
                right=_from_bits([b for _, entry in detected for b in entry[kind]]),
                counted=~ignored,
            )
        )
    return tables


def to_bits(by_threshold: NDArray[np.bool_]) -> list[int]:
    """Pack bool (10 IoU thresholds, n) into n integers; bit i stands for threshold i."""
    powers = 1 << np.arange(len(IOU_THRESHOLDS))
    packed: list[int] = (powers @ by_threshold.astype(np.int64)).tolist()
    return packed


def _from_bits(packed: Sequence[int]) -> NDArray[np.bool_]:
    powers = 1 << np.arange(len(IOU_THRESHOLDS))[:, None]
    return (np.array(packed, np.int64) & powers) > 0


#: Detections of an image and class that count.
_MAX_DETECTIONS = 100

#: Objects of every size count, in square pixels.
_ALL_AREAS = [0.0, 1e10]


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
    """Match the detections of one class on one image with the objects of that class.

    The lists are handed to pycocotools' own evaluation directly, which neither copies nor prints
    anything that way. `iou_type` is `bbox` or `segm`. In the record that is returned, `dtScores`
    are the detections' scores, best first, and in the same order `dtMatches` and `dtIgnore` (10 IoU
    thresholds, detections).
    """
    evaluation = optional("pycocotools.cocoeval").COCOeval(iouType=iou_type)
    evaluation.params.maxDets = [_MAX_DETECTIONS]
    evaluation.params.iouThrs = IOU_THRESHOLDS
    evaluation._gts[0, 0], evaluation._dts[0, 0] = objects, detections
    evaluation.ious = {(0, 0): evaluation.computeIoU(0, 0)}
    matched: Mapping[str, Any] = evaluation.evaluateImg(0, 0, _ALL_AREAS, _MAX_DETECTIONS)
    return matched


def _compressed(segmentation: Any, size: tuple[int, int]) -> Any:
    """Polygons or run lengths of a mask as pycocotools' compressed run lengths."""
    mask = optional("pycocotools.mask")
    if isinstance(segmentation, list):
        return mask.merge(mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return mask.frPyObjects(segmentation, *size)
    return segmentation
