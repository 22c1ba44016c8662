"""mIoU and pixel accuracy, counted as mmsegmentation does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import StageFailed
from ...runners import Tensors
from ...tasks.segmentation import decode_class_map
from ..datasets.ade20k import IGNORED, read_class_map
from ..datasets.sample import ClassMapTruth, Sample
from . import Counted, Metric, Results, points

_COUNTS = ("intersection", "answered", "annotated")


class MeanIoU(Metric):
    """`miou`: the mean over classes of intersection over union; `aacc`: the share of pixels whose
    class is right; `macc`: the mean over classes of the share of a class's pixels that are right.

    Pixels of all images are counted together, where the annotation has a class. A class that is
    neither annotated nor answered on any image is left out of the means.
    """

    names = ("miou", "aacc", "macc")
    resamples = 1000

    def chance(self, num_classes: int) -> float:
        # A model that always answers one class reaches that class's share of the pixels, divided
        # by the number of classes; one that guesses evenly reaches about half of this.
        return 100 / num_classes

    def image_result(self, answers: Tensors, sample: Sample) -> dict[str, Any]:
        """`classes`: the class ids that occur; for each of them the numbers of pixels:
        `intersection` (answered and annotated), `answered` and `annotated`."""
        truth = sample.truth
        assert isinstance(truth, ClassMapTruth)
        annotated = read_class_map(truth)
        answered = decode_class_map(answers["class_map"].item())
        if answered.shape != annotated.shape:
            raise StageFailed(
                f"{sample.id}: the class map is {answered.shape[0]}x{answered.shape[1]}, the "
                f"annotation {annotated.shape[0]}x{annotated.shape[1]}"
            )
        counted = annotated != IGNORED
        annotated, answered = annotated[counted], answered[counted].astype(np.int64)
        classes = np.union1d(annotated, answered)
        values = annotated[annotated == answered], answered, annotated
        counts = {
            name: np.bincount(np.searchsorted(classes, value), minlength=len(classes)).tolist()
            for name, value in zip(_COUNTS, values, strict=True)
        }
        return {"id": sample.id, "classes": classes.tolist(), **counts}

    def counted(self, results: Results, names: Sequence[str]) -> Counted:
        classes = sorted({class_id for result in results for class_id in result["classes"]})
        table = np.zeros((len(results), len(_COUNTS), len(classes)))
        for row, result in zip(table, results, strict=True):
            row[:, np.searchsorted(classes, result["classes"])] = [result[n] for n in _COUNTS]

        def figures_of(repeats: NDArray[np.int64]) -> dict[str, float]:
            sums = repeats.astype(np.float64) @ table.reshape(len(results), -1)
            intersection, answered, annotated = sums.reshape(len(_COUNTS), -1)
            return {
                "miou": _mean_points(intersection, answered + annotated - intersection),
                "aacc": points(intersection.sum(), annotated.sum()),
                "macc": _mean_points(intersection, annotated),
            }

        return figures_of


def _mean_points(part: NDArray[np.float64], whole: NDArray[np.float64]) -> float:
    present = whole > 0
    if not present.any():
        return float("nan")
    return 100 * float(np.mean(part[present] / whole[present]))


METRIC = MeanIoU()
