"""How far a heat map can be believed: deletion and insertion, and the rank correlation of maps."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .occlusion import mean_colour
from .task_explanation import Ask, Box, Heat, Target, TaskExplanation

#: Parts of an image that are deleted or inserted one after the other.
STEPS = 10

#: Height and width at which two maps are compared.
_COMPARED = 64, 64


class Faithfulness(NamedTuple):
    """The mean score while pixels are deleted and while they are inserted, the hottest first, as
    shares of the whole image's score (Petsiuk et al., BMVC 2018).

    figure: insertion minus deletion. Those of a random order are equal, so 0 is chance.
    """

    deletion: float
    insertion: float
    figure: float


def faithfulness(
    task: TaskExplanation, ask: Ask, image: Image.Image, target: Target, heat: Heat
) -> Faithfulness:
    """Ask about the image while parts of it have its mean colour. What is not seen is left as it
    is."""
    left, top, right, bottom = seen = task.seen(*image.size)
    pixels, empty = np.array(image), np.array(image)
    empty[top:bottom, left:right] = mean_colour(image, seen)
    places = np.arange(heat.size).reshape(heat.shape)[top:bottom, left:right].ravel()
    places = places[np.argsort(-heat.ravel()[places], kind="stable")]

    def mean_score(start: NDArray[np.uint8], end: NDArray[np.uint8]) -> float:
        changed = start.copy()
        curve = [task.score(ask(Image.fromarray(changed)), target)]
        for chosen in np.array_split(places, STEPS):
            changed.reshape(-1, 3)[chosen] = end.reshape(-1, 3)[chosen]
            curve.append(task.score(ask(Image.fromarray(changed)), target))
        return float(np.mean(curve[1:] + curve[:-1]))  # the area of trapezoids

    whole = max(task.score(ask(image), target), 1e-9)
    deletion, insertion = mean_score(pixels, empty) / whole, mean_score(empty, pixels) / whole
    return Faithfulness(deletion, insertion, insertion - deletion)


def correlation(first: Heat, second: Heat, seen: Box) -> float:
    """Spearman's correlation of two maps where the image is seen; 0 where one is even."""
    left, top, right, bottom = seen
    ranks = []
    for heat in (first, second):
        part = cv2.resize(heat[top:bottom, left:right], _COMPARED, interpolation=cv2.INTER_AREA)
        _, inverse, counts = np.unique(part, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - counts / 2)[inverse.ravel()])  # equal ones share a rank
    return float(np.corrcoef(*ranks)[0, 1]) if all(map(np.ptp, ranks)) else 0.0
