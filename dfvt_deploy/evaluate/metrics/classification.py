"""Top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets import ClassTruth, Sample
from .metric import ImageResult, Indices, Scorer, ScoresByScorer, as_text, share


class Accuracy(ScoresByScorer):
    """Shares of images whose class is the first answer, and among the first five.

    An answer is right when its class id and its label are, so that a server with a shifted label
    file is wrong. Of a model populated to give fewer than five answers, `top5` is over those.
    """

    names = ("top1", "top5")
    resamples = 1000

    def image_result(self, answers: Mapping[str, NDArray[Any]], sample: Sample) -> dict[str, Any]:
        """`rank`: place of the right answer, from 0, or None; `truth` and `answer`: class ids."""
        truth = sample.truth
        assert isinstance(truth, ClassTruth)
        ids = answers["class_ids"].reshape(-1)
        right = ids == truth.class_id
        if "labels" in answers:
            labels = answers["labels"].reshape(-1)
            right &= np.array([as_text(label) == truth.label for label in labels], np.bool_)
        places = np.flatnonzero(right)
        return {
            "id": sample.id,
            "truth": truth.class_id,
            "answer": int(ids[0]),
            "rank": int(places[0]) if len(places) else None,
        }

    def scorer(self, results: Sequence[ImageResult], names: Sequence[str] | None = None) -> Scorer:
        rank = np.array([np.inf if r["rank"] is None else r["rank"] for r in results])
        hits = {"top1": rank < 1, "top5": rank < 5}
        wanted = {name: hits[name] for name in names or self.names}

        def score(indices: Indices | None = None) -> dict[str, float]:
            chosen = {n: hit if indices is None else hit[indices] for n, hit in wanted.items()}
            return {name: share(hit.sum(), len(hit)) for name, hit in chosen.items()}

        return score
