"""Top-1 and top-5 accuracy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...drawing import text
from ...runners import Tensors
from ..datasets.sample import ClassTruth, Sample
from . import Counted, Metric, Results, points


class Accuracy(Metric):
    """`top1` and `top5`: the share of images whose class is the first, or among the first five (or
    as many as the model answers with), of the answered classes.

    An answered class is right if its class id and its label both are, so a server with a shifted
    label file is wrong on every image.
    """

    names = ("top1", "top5")
    resamples = 1000

    def chance(self, num_classes: int) -> float:
        return 100 / num_classes

    def image_result(self, answers: Tensors, sample: Sample) -> dict[str, Any]:
        """`truth` and `answer`: the class ids of the image and of the first answer; `rank`: the
        position of the right class among the answers, from 0, or None if it is not there."""
        truth = sample.truth
        assert isinstance(truth, ClassTruth)
        ids = answers["class_ids"].reshape(-1)
        right = ids == truth.class_id
        if "labels" in answers:
            labels = text(answers["labels"].reshape(-1))
            right &= np.array([label == truth.label for label in labels], np.bool_)
        places = np.flatnonzero(right)
        return {
            "id": sample.id,
            "truth": truth.class_id,
            "answer": int(ids[0]),
            "rank": int(places[0]) if len(places) else None,
        }

    def counted(self, results: Results, names: Sequence[str]) -> Counted:
        rank = np.array([np.inf if r["rank"] is None else r["rank"] for r in results])
        hits = {"top1": rank < 1, "top5": rank < 5}
        return lambda repeats: {n: points(x @ repeats, repeats.sum()) for n, x in hits.items()}


METRIC = Accuracy()
