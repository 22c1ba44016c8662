"""Whether a candidate lost too much accuracy, decided from paired results on the same images.

The difference of two figures on a sample of images has an error, and images that both models get
right or wrong alike hardly add to it. A paired bootstrap measures it: draw as many images as there
are, with repetition, score both models on them, and repeat. The bound is the 95th percentile of
the drops so found: with the confidence of 95 % (one-sided) the drop is not larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from ..errors import BadInput
from .metrics import ImageResult, Metric, Scorer

#: The drop is not larger than the bound with this confidence.
CONFIDENCE = 0.95

Verdict: TypeAlias = Literal["passed", "failed", "inconclusive"]

#: Decimals of a drop; what lies behind them is rounding of the figures' own arithmetic.
_DIGITS = 9


@dataclass(frozen=True)
class GateDecision:
    """The verdict and what it rests on; figures in points of `metric`.

    verdict: `passed` when `upper_bound` is at most `max_drop`; `inconclusive` when only `drop` is;
        else `failed`.
    reference, candidate: the figure of each on all images; `drop` is their difference.
    upper_bound: of the drop, one-sided 95 %.
    images: how many were compared; changed: on how many of them the results differ.
    images_needed: about how many would decide, if the drop stays and its error shrinks with the
        square root of their number. None where the verdict is clear, or where the drop is the
        limit itself, which no number of images decides.
    """

    verdict: Verdict
    metric: str
    max_drop: float
    reference: float
    candidate: float
    drop: float
    upper_bound: float
    images: int
    changed: int
    images_needed: int | None
    resamples: int
    seed: int


def decide(
    metric: Metric,
    reference_results: Sequence[ImageResult],
    candidate_results: Sequence[ImageResult],
    max_drop: float,
    resamples: int | None = None,
    seed: int = 0,
) -> GateDecision:
    """Compare two models by the first figure of a metric.

    Args:
        reference_results, candidate_results: of the same images in the same order.
        max_drop: largest allowed drop, in points.
        resamples: draws of the bootstrap; the metric's own number by default.

    Raises:
        BadInput: results of other images, none at all, or images on which nothing can be counted.
    """
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise BadInput(f"--max-drop {max_drop} is not a number of points from 0")
    _require_same_images(reference_results, candidate_results)
    name = metric.names[0]
    scorers = [metric.scorer(r, (name,)) for r in (reference_results, candidate_results)]
    reference, candidate = (score(None)[name] for score in scorers)
    if math.isnan(reference) or math.isnan(candidate):
        raise BadInput(f"{name} is not defined on these {len(reference_results)} images")
    drop = round(reference - candidate, _DIGITS)
    count = len(reference_results)
    pairs = zip(reference_results, candidate_results, strict=True)
    changed = sum(first != second for first, second in pairs)
    resamples = resamples or metric.resamples
    upper = _upper_bound(scorers, name, count, resamples, seed) if changed else drop
    within: Verdict = "passed" if upper <= max_drop else "inconclusive"
    return GateDecision(
        verdict=within if drop <= max_drop else "failed",
        metric=name,
        max_drop=max_drop,
        reference=reference,
        candidate=candidate,
        drop=drop,
        upper_bound=upper,
        images=count,
        changed=changed,
        images_needed=(
            _images_needed(count, drop, upper, max_drop) if drop <= max_drop < upper else None
        ),
        resamples=resamples,
        seed=seed,
    )


def _upper_bound(
    scorers: Sequence[Scorer], name: str, count: int, resamples: int, seed: int
) -> float:
    rng = np.random.default_rng(seed)
    drops = np.empty(resamples)
    for i in range(resamples):
        indices = rng.integers(0, count, count)
        reference, candidate = (score(indices)[name] for score in scorers)
        drops[i] = reference - candidate
    # A draw may hold no image on which anything can be counted.
    return round(float(np.nanquantile(drops, CONFIDENCE)), _DIGITS)


def _images_needed(count: int, drop: float, upper: float, max_drop: float) -> int | None:
    if drop >= max_drop:
        return None
    return math.ceil(count * ((upper - drop) / (max_drop - drop)) ** 2)


def _require_same_images(
    reference: Sequence[ImageResult], candidate: Sequence[ImageResult]
) -> None:
    if not reference or not candidate:
        raise BadInput("no images to compare: a gate needs results of at least one")
    if len(reference) != len(candidate):
        raise BadInput(
            f"results of {len(reference)} and of {len(candidate)} images cannot be compared; "
            "run both on the same images"
        )
    for i, (first, second) in enumerate(zip(reference, candidate, strict=True)):
        if first["id"] != second["id"]:
            raise BadInput(
                f"result {i} is of {first['id']} for one model, of {second['id']} for the other; "
                "run both on the same images"
            )
