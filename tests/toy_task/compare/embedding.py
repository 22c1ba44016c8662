"""Comparison of embeddings: the angle between two vectors of one image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runners import Tensors
from ..types import Precision, Task
from . import TaskComparison
from .agreement import Agreement, Limit, compare_tensors

#: Vectors of an image whose cosine is above this are the same.
_SAME = 0.999


def _compare(
    reference: Tensors, candidate: Tensors, image_sizes: NDArray[Any] | None = None
) -> Agreement:
    a, b = reference["embedding"], candidate["embedding"]
    same = float(((a * b).sum(axis=1) > _SAME).sum())
    return Agreement(
        task=Task.EMBEDDING,
        images=len(a),
        tensors={"embedding": compare_tensors(a, b)},
        shares={"same": (same, float(len(a)))},
    )


_COSINES = {Precision.FP32: 0.99999, Precision.FP16: 0.999, Precision.INT8: 0.98}
_LIMITS = {
    precision: (Limit("embedding, cosine", cosine, at_least=True),)
    for precision, cosine in _COSINES.items()
}

COMPARISON = TaskComparison(
    task=Task.EMBEDDING,
    compare_outputs=_compare,
    compare_answers=_compare,
    limits=_LIMITS,
    answer_limits=_LIMITS,
    same_code_limits=(Limit("embedding, max absolute", 0),),
    class_counts=lambda answers: {int(np.argmax(answers["embedding"])): 1},
    answer_change=lambda agreement: 100 * (1 - agreement.figures["same"]),
    share="same",
    share_title="images with the reference's vector",
)
