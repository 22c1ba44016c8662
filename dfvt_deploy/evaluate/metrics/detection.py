"""Box and mask AP, equal to pycocotools' figures and fast to compute on resampled images."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StageFailed
from ...json_files import JsonError, parse_json
from ..datasets.coco_objects import rle_problem
from ..datasets.sample import DetectionTruth, Sample
from .average_precision import class_tables, match, objects_by_class, to_bits
from .metric import ImageResult, Indices, Metric, Scorer, as_text

#: What is compared, and pycocotools' name for it.
_KINDS = {"box": "bbox", "mask": "segm"}

#: The IoU thresholds of each figure, as positions in `IOU_THRESHOLDS`.
_RANGES = {"ap": slice(None), "ap50": slice(0, 1), "ap75": slice(5, 6)}


class AveragePrecision(Metric):
    """COCO's AP of boxes and of masks: the mean over classes, recalls and IoU thresholds.

    pycocotools matches detections with objects once for each image, and the result of an image
    says which detections were right. A detection whose label is the name of another class counts
    for that class, because users read the label; one with an unknown label does not count.
    """

    names = ("box_ap", "mask_ap", "box_ap50", "box_ap75", "mask_ap50", "mask_ap75")
    resamples = 200

    def chance(self, num_classes: int) -> float:
        # Boxes placed without looking at the image hardly ever reach an IoU of 0.5.
        return 0.0

    def image_result(self, answers: Mapping[str, NDArray[Any]], sample: Sample) -> dict[str, Any]:
        """`classes`: one entry for each class that is annotated or answered.

        An entry holds the `class` id, the number of `objects` to be found, the `scores` of the
        detections, best first, and for each detection four sets of IoU thresholds (bit i stands
        for threshold i): `box` and `mask`, at which it found an object; `box_ignored` and
        `mask_ignored`, at which it does not count, as on a crowd.
        """
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

    def scorer(self, results: Sequence[ImageResult], names: Sequence[str] | None = None) -> Scorer:
        wanted = tuple(names or self.names)
        kinds = [kind for kind in _KINDS if any(name.startswith(kind) for name in wanted)]
        tables = {kind: class_tables(results, kind) for kind in kinds}

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


METRIC = AveragePrecision()


def _detections_by_class(
    answers: Mapping[str, NDArray[Any]], truth: DetectionTruth, name: str
) -> defaultdict[int, list[dict[str, Any]]]:
    """An image's detections as pycocotools wants them, by class id; StageFailed for a wrong
    mask."""
    count = int(answers["num_detections"].item())
    boxes = answers["boxes"].reshape(-1, 4)[:count].astype(np.float64)
    scores = answers["scores"].reshape(-1)[:count]
    class_ids = answers["class_ids"].reshape(-1)[:count].tolist()
    if "labels" in answers:
        labels = [as_text(label) for label in answers["labels"].reshape(-1)[:count]]
        class_ids = [
            _class_of(class_id, label, truth.labels)
            for class_id, label in zip(class_ids, labels, strict=True)
        ]
    masks = answers["masks"].reshape(-1)[:count]
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for i, (box, class_id, encoded) in enumerate(zip(boxes, class_ids, masks, strict=True)):
        try:
            mask = parse_json(as_text(encoded))
        except JsonError as error:
            problem: str | None = f"is no run lengths: {error}"
        else:
            problem = rle_problem(mask, truth.size)
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
