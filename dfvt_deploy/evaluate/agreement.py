"""How far two runs of one model agree: on tensors, and on what a user sees.

An `Agreement` is a sum over images: two add up to that of both, in any order, and it is stored as
JSON. So images are compared one by one and nothing of them is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..artifact import Record
from ..runners import Tensors
from ..tasks import detection, rle, segmentation
from ..tasks.classification import TOP_K
from ..types import Task
from .detections import DetectionComparison, compare_detections

#: Detections below this score are not asked for again.
MIN_SCORE = 0.1

#: Detections of one class that overlap by more than this are the same.
MIN_IOU = 0.9


class TensorAgreement(Record):
    """Sums over the elements of one tensor that are finite in both runs.

    non_finite: elements of the candidate that are not finite; they are in no other figure.
    """

    elements: int = 0
    non_finite: int = 0
    sum_abs: float = 0
    max_abs: float = 0
    max_reference: float = 0
    dot: float = 0
    reference_squared: float = 0
    candidate_squared: float = 0

    @property
    def mean_abs(self) -> float:
        """Mean absolute difference."""
        return self.sum_abs / self.elements if self.elements else 0.0

    @property
    def max_rel(self) -> float:
        """Largest absolute difference over the largest absolute value of the reference."""
        return self.max_abs / self.max_reference if self.max_reference else self.max_abs

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two tensors; 1 if both are zero."""
        lengths = np.sqrt(self.reference_squared) * np.sqrt(self.candidate_squared)
        if lengths == 0:
            return float(self.reference_squared == self.candidate_squared)
        return float(np.clip(self.dot / lengths, -1, 1))

    def __add__(self, other: TensorAgreement) -> TensorAgreement:
        return TensorAgreement(
            elements=self.elements + other.elements,
            non_finite=self.non_finite + other.non_finite,
            sum_abs=self.sum_abs + other.sum_abs,
            max_abs=max(self.max_abs, other.max_abs),
            max_reference=max(self.max_reference, other.max_reference),
            dot=self.dot + other.dot,
            reference_squared=self.reference_squared + other.reference_squared,
            candidate_squared=self.candidate_squared + other.candidate_squared,
        )


class Agreement(Record):
    """How a candidate agrees with a reference over some images.

    tensors: floating-point tensors by name. A detector's are those of matched detections.
    counts: what `figures` divides; they add up.
    worst: the largest difference of its kind over all images.
    areas: by class id, pixels that both runs gave it and pixels that either did (segmentation).
    """

    task: Task
    images: int
    tensors: dict[str, TensorAgreement] = Field(default_factory=dict)
    counts: dict[str, float] = Field(default_factory=dict)
    worst: dict[str, float] = Field(default_factory=dict)
    areas: dict[int, tuple[int, int]] = Field(default_factory=dict)

    def __add__(self, other: Agreement) -> Agreement:
        if self.task is not other.task:
            raise ValueError(f"agreements of {self.task} and {other.task} do not add up")
        return Agreement(
            task=self.task,
            images=self.images + other.images,
            tensors=_merged(self.tensors, other.tensors, TensorAgreement.__add__),
            counts=_merged(self.counts, other.counts, float.__add__),
            worst=_merged(self.worst, other.worst, max),
            areas=_merged(self.areas, other.areas, lambda a, b: (a[0] + b[0], a[1] + b[1])),
        )

    @property
    def non_finite(self) -> int:
        """Elements of the candidate's tensors that are not finite."""
        return sum(tensor.non_finite for tensor in self.tensors.values())

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the task; shares are of 1.

        Classification: `top1`, the share of images with the same best class; `top5`, the mean
            share of the reference's five best classes among the candidate's.
        Segmentation: `pixels`, the share with the same class; `miou` of the classes that either
            run gave.
        Detection: `matched`, the share of the reference's detections found again; `missing` and
            `extra`, detections of the reference that were not, and of the candidate that are
            new; over the matched ones `box_px` and `score`, the largest differences, and
            `mask_iou`, the mean.
        """
        return {**_FIGURES[self.task](self), **self.worst}

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @staticmethod
    def from_json(document: Any) -> Agreement:
        """Raises `pydantic.ValidationError`."""
        return Agreement.model_validate(document)


def compare_outputs(
    task: Task,
    reference: Tensors,
    candidate: Tensors,
    image_sizes: NDArray[Any] | None = None,
    *,
    min_score: float = MIN_SCORE,
    min_iou: float = MIN_IOU,
) -> Agreement:
    """Compare two networks' outputs (named as in an exported graph) for the same images.

    Args:
        image_sizes: int64 (N, 2), the valid height and width within the canvas; a class map
            counts only there. The whole canvas without it.
        min_score, min_iou: which detections are asked for again, and which are the same.

    Raises:
        ValueError: shapes differ, or an output of the reference is missing.
    """
    for name, value in reference.items():
        if name not in candidate:
            raise ValueError(f"the candidate has no output {name!r}; it has {sorted(candidate)}")
        if value.shape != candidate[name].shape:
            raise ValueError(f"{name} is {candidate[name].shape}, the reference's {value.shape}")
    if task is Task.CLASSIFICATION:
        a, b = reference["logits"], candidate["logits"]
        total = _compare_ranking(_best(a), _best(b))
        return total.model_copy(update={"tensors": {"logits": compare_tensors(a, b)}})
    if task is Task.SEGMENTATION:
        maps = zip(reference["class_map"], candidate["class_map"], strict=True)
        sizes = (
            image_sizes if image_sizes is not None else [m.shape for m in reference["class_map"]]
        )
        total = _sum(
            task,
            [
                _compare_class_maps(a[:h, :w], b[:h, :w])
                for (a, b), (h, w) in zip(maps, sizes, strict=True)
            ],
        )
        if "logits" not in reference:
            return total
        logits = compare_tensors(reference["logits"], candidate["logits"])
        return total.model_copy(update={"tensors": {"logits": logits}})
    return _sum(
        task,
        [
            _compare_found(
                _rows_of_network(reference, i), _rows_of_network(candidate, i), min_score, min_iou
            )
            for i in range(len(reference["scores"]))
        ],
    )


def compare_answers(
    task: Task,
    reference: Tensors,
    candidate: Tensors,
    *,
    min_score: float = MIN_SCORE,
    min_iou: float = MIN_IOU,
) -> Agreement:
    """Compare what two served models answer (the ensemble's outputs, batch dimension included).

    Labels that differ count as `labels` in `Agreement.counts`. Masks are compared at the size of
    the image.

    Raises:
        ValueError: the two answer different numbers of images, or images of different sizes.
    """
    first = "class_map" if task is Task.SEGMENTATION else "scores"
    if len(reference[first]) != len(candidate[first]):
        raise ValueError(
            f"{len(candidate[first])} answers, the reference has {len(reference[first])}"
        )
    if task is Task.CLASSIFICATION:
        total = _compare_ranking(reference["class_ids"], candidate["class_ids"])
        renamed = _renamed(reference, candidate)
        scores = compare_tensors(reference["scores"], candidate["scores"])
        return total.model_copy(
            update={"tensors": {"scores": scores}, "counts": {**total.counts, "labels": renamed}}
        )
    if task is Task.SEGMENTATION:
        pairs = zip(reference["class_map"].ravel(), candidate["class_map"].ravel(), strict=True)
        decode = segmentation.decode_class_map
        return _sum(task, [_compare_class_maps(decode(a), decode(b)) for a, b in pairs])
    return _sum(
        task,
        [
            _compare_found(
                _rows_of_answer(reference, i), _rows_of_answer(candidate, i), min_score, min_iou
            )
            for i in range(len(reference["scores"]))
        ],
    )


def compare_tensors(reference: NDArray[Any], candidate: NDArray[Any]) -> TensorAgreement:
    """Compare two floating-point tensors of one shape, in float64."""
    a, b = (np.asarray(tensor, np.float64).ravel() for tensor in (reference, candidate))
    finite = np.isfinite(a) & np.isfinite(b)
    non_finite = int((~np.isfinite(b)).sum())
    a, b = a[finite], b[finite]
    gap = np.abs(a - b)
    return TensorAgreement(
        elements=a.size,
        non_finite=non_finite,
        sum_abs=float(gap.sum()),
        max_abs=float(gap.max(initial=0)),
        max_reference=float(np.abs(a).max(initial=0)),
        dot=float(a @ b),
        reference_squared=float(a @ a),
        candidate_squared=float(b @ b),
    )


def _best(logits: NDArray[Any]) -> NDArray[Any]:
    return np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K]


def _compare_ranking(a: NDArray[Any], b: NDArray[Any]) -> Agreement:
    """Class ids (N, k), best first."""
    shared = sum(len(np.intersect1d(x, y)) for x, y in zip(a, b, strict=True))
    return Agreement(
        task=Task.CLASSIFICATION,
        images=len(a),
        counts={
            "top1_equal": float((a[:, 0] == b[:, 0]).sum()),
            "top5_shared": float(shared),
            "top5": float(a.size),
        },
    )


def _renamed(reference: Tensors, candidate: Tensors) -> float:
    """Labels of a class that both name, and name differently."""
    names = [
        dict(zip(side["class_ids"].ravel(), side["labels"].ravel(), strict=True))
        for side in (reference, candidate)
    ]
    return float(sum(names[1].get(i, name) != name for i, name in names[0].items()))


def _compare_class_maps(a: NDArray[Any], b: NDArray[Any]) -> Agreement:
    if a.shape != b.shape:
        raise ValueError(f"a class map is {b.shape}, the reference's {a.shape}")
    size = int(max(a.max(initial=0), b.max(initial=0))) + 1
    both = np.bincount(a[a == b].ravel(), minlength=size)
    either = np.bincount(a.ravel(), minlength=size) + np.bincount(b.ravel(), minlength=size) - both
    return Agreement(
        task=Task.SEGMENTATION,
        images=1,
        counts={"pixels_equal": float(both.sum()), "pixels": float(a.size)},
        areas={int(i): (int(both[i]), int(either[i])) for i in np.flatnonzero(either)},
    )


class _Rows(NamedTuple):
    """One image's detections: boxes (n, 4), scores (n,), labels (n,), names, binary masks."""

    boxes: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[Any]
    names: NDArray[Any] | None
    mask: Callable[[int], NDArray[np.bool_]]


def _rows_of_network(outputs: Tensors, i: int) -> _Rows:
    used = np.flatnonzero(outputs["labels"][i] >= 0)
    masks = outputs["masks"][i]
    return _Rows(
        outputs["boxes"][i][used],
        outputs["scores"][i][used],
        outputs["labels"][i][used],
        names=None,
        mask=lambda row: masks[used[row]] >= detection.MASK_THRESHOLD,
    )


def _rows_of_answer(answers: Tensors, i: int) -> _Rows:
    one = detection.result_from_answers({name: value[i] for name, value in answers.items()})
    return _Rows(
        one.boxes,
        one.scores,
        one.labels,
        names=answers["labels"][i],
        mask=lambda row: rle.decode(one.masks[row]),
    )


def _compare_found(a: _Rows, b: _Rows, min_score: float, min_iou: float) -> Agreement:
    found = compare_detections(a, b, min_iou=min_iou)
    found = _above(found, a.scores, b.scores, min_score)
    rows = found.matches
    ious = [_iou(a.mask(i), b.mask(j)) for i, j in rows]
    counts = {
        "reference": float(len(rows) + len(found.missing)),
        "matched": float(len(rows)),
        "missing": float(len(found.missing)),
        "extra": float(len(found.extra)),
        "mask_iou": float(sum(ious)),
    }
    if a.names is not None and b.names is not None:
        counts["labels"] = float(sum(a.names[i] != b.names[j] for i, j in rows))
    return Agreement(
        task=Task.DETECTION,
        images=1,
        tensors={
            "boxes": _matched_tensors(a.boxes, b.boxes, rows),
            "scores": _matched_tensors(a.scores, b.scores, rows),
        },
        counts=counts,
        worst={
            "box_px": float(found.box_px.max(initial=0)),
            "score": float(found.score_differences.max(initial=0)),
        },
    )


def _matched_tensors(a: NDArray[Any], b: NDArray[Any], rows: NDArray[np.int64]) -> TensorAgreement:
    """What is not finite matches nothing, and is counted all the same."""
    matched = compare_tensors(a[rows[:, 0]], b[rows[:, 1]])
    return matched.model_copy(update={"non_finite": int((~np.isfinite(b)).sum())})


def _above(
    found: DetectionComparison, a: NDArray[Any], b: NDArray[Any], min_score: float
) -> DetectionComparison:
    """What concerns the reference's detections above a score, and the candidate's new ones."""
    kept = a[found.matches[:, 0]] > min_score
    return DetectionComparison(
        matches=found.matches[kept],
        missing=found.missing[a[found.missing] > min_score],
        extra=found.extra[b[found.extra] > min_score],
        ious=found.ious[kept],
        box_px=found.box_px[kept],
        score_differences=found.score_differences[kept],
        mask_differences=found.mask_differences,
    )


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    if a.shape != b.shape:
        raise ValueError(f"a mask is {b.shape}, the reference's {a.shape}")
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 1.0


def _sum(task: Task, agreements: list[Agreement]) -> Agreement:
    return sum(agreements[1:], agreements[0]) if agreements else Agreement(task=task, images=0)


def _merged(a: Mapping[Any, Any], b: Mapping[Any, Any], add: Callable[..., Any]) -> dict[Any, Any]:
    return {
        key: add(a[key], b[key]) if key in a and key in b else {**a, **b}[key] for key in [*a, *b]
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _classification_figures(total: Agreement) -> dict[str, float]:
    counts = total.counts
    return {
        "top1": _share(counts.get("top1_equal", 0), total.images),
        "top5": _share(counts.get("top5_shared", 0), counts.get("top5", 0)),
    }


def _segmentation_figures(total: Agreement) -> dict[str, float]:
    ious = [both / either for both, either in total.areas.values()]
    return {
        "pixels": _share(total.counts.get("pixels_equal", 0), total.counts.get("pixels", 0)),
        "miou": float(np.mean(ious)) if ious else 1.0,
    }


def _detection_figures(total: Agreement) -> dict[str, float]:
    counts = total.counts
    return {
        "matched": _share(counts.get("matched", 0), counts.get("reference", 0)),
        "missing": counts.get("missing", 0.0),
        "extra": counts.get("extra", 0.0),
        "mask_iou": _share(counts.get("mask_iou", 0), counts.get("matched", 0)),
    }


_FIGURES = {
    Task.CLASSIFICATION: _classification_figures,
    Task.SEGMENTATION: _segmentation_figures,
    Task.DETECTION: _detection_figures,
}
