"""The accuracy gate: whether a candidate loses more accuracy than is allowed.

Figures are measured on a sample of images, so they have an error, which a bootstrap estimates: draw
as many images as there are, with repetition, score the models on the drawn images, and repeat. A
quantile of the results is a one-sided 95 % bound. For a drop both models are scored on the same
drawn images, since images on which both are right, or both wrong, hardly add to its error.
"""

import math
from collections.abc import Sequence

import numpy as np

from .metrics import ImageResult, Indices, Metric
from .results import ChanceLevel, GateFigures, Outcome

#: The confidence that a figure is not beyond its bound.
CONFIDENCE = 0.95

#: Points above chance that the reference must reach. Labels in another order leave a few classes
#: right, so a score a little above chance is still a mistake.
CHANCE_MARGIN = 2.0

#: Draws of the bootstrap for the reference's bound; a metric says how many the gate makes.
_CHANCE_RESAMPLES = 200

#: Decimals that a drop is rounded to, because the figures' arithmetic is not exact beyond them.
_DIGITS = 9


def decide(
    metric: Metric,
    reference_results: Sequence[ImageResult],
    candidate_results: Sequence[ImageResult],
    max_drop: float,
    resamples: int | None = None,
    seed: int = 0,
) -> GateFigures:
    """Compare the accuracy of two models, by their results for the same images in the same order,
    by the first figure of a metric, which may drop by `max_drop` points. `resamples` is the number
    of bootstrap draws; the metric's own by default."""
    name, count = metric.names[0], len(reference_results)
    scorers = [metric.scorer(r, (name,)) for r in (reference_results, candidate_results)]

    def drop_on(indices: Indices | None) -> float:
        reference, candidate = (score(indices)[name] for score in scorers)
        return reference - candidate

    drop = upper = round(drop_on(None), _DIGITS)
    pairs = zip(reference_results, candidate_results, strict=True)
    if any(first != second for first, second in pairs):
        rng = np.random.default_rng(seed)
        draws = resamples or metric.resamples
        drops = [drop_on(rng.integers(0, count, count)) for _ in range(draws)]
        # The figure of a draw is nan if the draw has no image on which anything can be counted.
        upper = round(float(np.nanquantile(drops, CONFIDENCE)), _DIGITS)
    within: Outcome = "passed" if upper <= max_drop else "inconclusive"
    needed = None
    if drop < max_drop < upper:  # the bound's distance shrinks with the root of the images
        needed = math.ceil(count * ((upper - drop) / (max_drop - drop)) ** 2)
    return GateFigures(
        verdict=within if drop <= max_drop else "failed",
        drop=drop,
        upper_bound=upper,
        limit=max_drop,
        images=count,
        images_needed=needed,
    )


def chance_level(metric: Metric, results: Sequence[ImageResult], num_classes: int) -> ChanceLevel:
    """The reference's score beside chance; no drop means anything where it is not better. A few
    images may be right by luck, so it is the lower bound that must be above chance."""
    chance, name, count = metric.chance(num_classes), metric.names[0], len(results)
    score_of = metric.scorer(results, (name,))
    score = score_of(None)[name] if results else math.nan
    bound = math.nan
    if not math.isnan(score):
        rng = np.random.default_rng(0)
        draws = [score_of(rng.integers(0, count, count))[name] for _ in range(_CHANCE_RESAMPLES)]
        bound = float(np.nanquantile(draws, 1 - CONFIDENCE))
    return ChanceLevel(
        score=None if math.isnan(score) else round(score, 6),
        lower_bound=None if math.isnan(bound) else round(bound, 6),
        chance=round(chance, 6),
        needed=round(chance + CHANCE_MARGIN, 6),
    )
