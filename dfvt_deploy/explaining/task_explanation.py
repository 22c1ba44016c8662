"""What an explanation is made of: targets, maps, and what differs between the tasks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..drawing import Answers

#: Asks a model, in any runtime or on a server, about an RGB image.
Ask: TypeAlias = Callable[[Image.Image], Answers]

#: Left, top, right and bottom, in pixels of an image.
Box: TypeAlias = tuple[int, int, int, int]

#: Names of classes by class id; of an answer alone, those in it.
Names: TypeAlias = Sequence[str] | Mapping[int, str]

#: Class ids, or ranks of detections from 1.
Ids: TypeAlias = Sequence[int]

#: A map over an image, float32 (H, W), 0 to 1.
Heat: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Target:
    """The part of an answer that is explained.

    name: the class and, of a detection, its rank.
    box: of a detection: xyxy in pixels of the image.
    region: of a class map: bool (H, W), the pixels that have the class.
    """

    name: str
    class_id: int
    box: tuple[float, ...] | None = None
    region: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class TaskExplanation:
    """How answers of one task are explained.

    targets: the targets in the answers for an image: from the names of all classes, the class ids
        and the ranks of detections that are wanted, else the best so many.
    score: how much of a target is in the answers for a changed image, 0 to 1.
    logit: the PyTorch model's logit of a target, for normalised images (1, 3, H, W) and the inputs
        that the pipeline prepared.
    layer: the layer whose Grad-CAM++ maps are the most faithful (docs/explain.md).
    seen: the part of an image of a width and height that the network sees.
    """

    targets: Callable[[Answers, Names, Ids, Ids, int], list[Target]]
    score: Callable[[Answers, Target], float]
    logit: Callable[[Any, Any, Mapping[str, NDArray[Any]], Target], Any]
    layer: str = "stage4.context"
    seen: Callable[[int, int], Box] = lambda width, height: (0, 0, width, height)
