"""COCO's compressed run-length encoding of binary masks, without pycocotools.

Runs of zeros and ones alternate, zeros first, column by column. From the fourth on, each run is
the difference to the run two before. Numbers are written in groups of five bits, lowest first.
"""

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]

#: Groups of five bits that hold any 32-bit difference of runs.
_GROUPS = 7


class Rle(TypedDict):
    """`size` is height and width, `counts` the runs."""

    size: list[int]
    counts: str


def encode(part: NDArray[Any], top: int, left: int, size: tuple[int, int]) -> Rle:
    """Encode a mask of `size` (height, width) that is zero outside `part`, bool (h, w), whose first
    pixel is at row `top` and column `left`. Time and memory go with the part, not with the mask."""
    height, width = size
    rows, cols = part.shape
    columns = np.zeros((cols, rows + 2), np.bool_)
    columns[:, 1:-1] = part.T
    changes = np.flatnonzero(columns[:, 1:] != columns[:, :-1])
    column, row = np.divmod(changes, rows + 1)
    bounds = (left + column) * height + top + row  # of the runs of ones: start, end, start, end
    # A run that reaches the bottom goes on where the next column begins with one.
    apart = bounds[1:-1:2] != bounds[2::2]
    keep = np.ones(len(bounds), np.bool_)
    keep[1:-1:2] = keep[2::2] = apart
    bounds = bounds[keep]
    if len(bounds) == 0 or bounds[-1] < height * width:
        bounds = np.append(bounds, height * width)
    return {"size": [height, width], "counts": _compress(np.diff(bounds, prepend=0))}


def decode(rle: Rle) -> BoolArray:
    """The mask, bool (height, width)."""
    height, width = rle["size"]
    counts: list[int] = []
    value = shift = 0
    for byte in rle["counts"].encode("ascii"):
        group = byte - 48
        value |= (group & 0x1F) << shift
        shift += 5
        if not group & 0x20:
            if group & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    ones = np.arange(len(counts)) % 2 == 1
    return np.repeat(ones, counts).reshape(width, height).T


def _compress(counts: NDArray[np.int64]) -> str:
    values = counts.copy()
    values[3:] -= counts[1:-2]
    groups = np.zeros((len(values), _GROUPS), np.uint8)
    written = np.zeros(groups.shape, np.bool_)
    more = np.ones(len(values), np.bool_)
    for i in range(_GROUPS):
        written[:, i] = more
        group = values & 0x1F
        values >>= 5
        more = more & (values != np.where(group & 0x10, -1, 0))
        groups[:, i] = 48 + group + np.where(more, 0x20, 0)
    return groups[written].tobytes().decode("ascii")
