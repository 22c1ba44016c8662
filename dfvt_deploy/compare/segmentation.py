"""Comparison of segmentation networks: the class of each valid pixel."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runners import Tensors
from ..tasks.segmentation import decode_class_map
from ..types import Precision, Task
from . import TaskComparison
from .agreement import Agreement, Limit, compare_tensors, total


def _compare_outputs(
    reference: Tensors, candidate: Tensors, image_sizes: NDArray[Any] | None
) -> Agreement:
    a, b = reference["class_map"], candidate["class_map"]
    sizes = [one.shape for one in a] if image_sizes is None else image_sizes
    images = zip(a, b, sizes, strict=True)
    each = (_compare_class_maps(x[:h, :w], y[:h, :w]) for x, y, (h, w) in images)
    summed = total(Task.SEGMENTATION, each)
    if "logits" not in reference:
        return summed
    logits = compare_tensors(reference["logits"], candidate["logits"])
    return summed.model_copy(update={"tensors": {"logits": logits}})


def _compare_answers(reference: Tensors, candidate: Tensors) -> Agreement:
    pairs = zip(reference["class_map"].ravel(), candidate["class_map"].ravel(), strict=True)
    each = (_compare_class_maps(decode_class_map(a), decode_class_map(b)) for a, b in pairs)
    return total(Task.SEGMENTATION, each)


def _compare_class_maps(a: NDArray[Any], b: NDArray[Any]) -> Agreement:
    """Compare class ids (H, W)."""
    if a.shape != b.shape:
        raise ValueError(f"a class map is {b.shape}, the reference's {a.shape}")
    size = int(max(a.max(initial=0), b.max(initial=0))) + 1
    both = np.bincount(a[a == b].ravel(), minlength=size)
    either = np.bincount(a.ravel(), minlength=size) + np.bincount(b.ravel(), minlength=size) - both
    return Agreement(
        task=Task.SEGMENTATION,
        images=1,
        shares={"pixels": (float(both.sum()), float(a.size))},
        areas={int(i): (int(both[i]), int(either[i])) for i in np.flatnonzero(either)},
    )


def _class_counts(answers: Tensors) -> dict[int, int]:
    pixels = np.bincount(decode_class_map(answers["class_map"].item()).ravel())
    return {int(i): int(pixels[i]) for i in np.flatnonzero(pixels)}


_PIXELS = {
    Precision.FP32: 0.999,
    Precision.FP16: 0.995,
    Precision.BF16: 0.99,
    Precision.INT8: 0.97,
}
_LIMITS = {
    precision: (Limit("pixels", share, at_least=True),) for precision, share in _PIXELS.items()
}

COMPARISON = TaskComparison(
    task=Task.SEGMENTATION,
    compare_outputs=_compare_outputs,
    compare_answers=_compare_answers,
    limits=_LIMITS,
    answer_limits=_LIMITS,
    same_code_limits=(Limit("pixels", 1, at_least=True),),
    class_counts=_class_counts,
    answer_change=lambda agreement: 100 * (1 - agreement.figures["pixels"]),
    share="pixels",
    share_title="pixels with the reference's class",
    breakage={Precision.INT8: (Limit("pixels", 0.8, at_least=True, kind="breakage"),)},
)
