"""The objects of a COCO file, checked one by one and sorted by image.

pycocotools trusts its input: a cut run-length string makes it read for ever, and a polygon far
outside the image makes it allocate without limit. So masks have bounds here.
"""

import reprlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BadInput
from .sample import AnnotatedObject

#: Characters of a compressed run: `0` to `o`, each with five bits and a bit for "more follow".
_FIRST, _LAST = ord("0"), ord("o")

#: Most characters of one run, which then has up to 35 bits.
_MAX_CHARACTERS = 7

#: Longest outline of an object's polygons, in sums of the image's height and width.
_MAX_OUTLINE = 100


def segmentation_problem(segmentation: Any, size: tuple[int, int]) -> str | None:
    """Why polygons or run lengths are no mask of an image (height, width); None if they are."""
    if isinstance(segmentation, dict):
        problem = rle_problem(segmentation, size)
        return f"has a segmentation that {problem}" if problem else None
    if not isinstance(segmentation, list) or not segmentation:
        return f"has the segmentation {reprlib.repr(segmentation)}, neither polygons nor runs"
    outline = 0.0
    for polygon in segmentation:
        points = as_numbers(polygon)
        if points is None or len(points) < 6 or len(points) % 2:
            return (
                f"has the polygon {reprlib.repr(polygon)}, not a list of 6 numbers or more, x and "
                "y in turn"
            )
        corners = points.reshape(-1, 2)
        if problem := position_problem(corners, size):
            return f"has a polygon with the {problem}"
        steps = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1)
        outline += float(steps.sum())
    longest = _MAX_OUTLINE * sum(size)
    if outline > longest:
        return f"has polygons with {outline:,.0f} pixels of outline, the limit is {longest:,}"
    return None


def rle_problem(rle: Any, size: tuple[int, int]) -> str | None:
    """The reason why run lengths are not a mask of an image of this height and width, as the end of
    a sentence, or None. `counts` is a list of runs, or COCO's compressed string of them."""
    if not isinstance(rle, dict):
        return f"is {reprlib.repr(rle)}, not run lengths"
    if rle.get("size") != list(size):
        return f"has the size {reprlib.repr(rle.get('size'))}, the image {list(size)}"
    counts, pixels = rle.get("counts"), size[0] * size[1]
    if isinstance(counts, str):
        runs = _decompressed(counts)
        if isinstance(runs, str):
            return runs
    elif isinstance(counts, list):
        # bool is a kind of int, so isinstance would accept true as a run.
        if wrong := [run for run in counts if type(run) is not int or not 0 <= run <= pixels]:
            return f"has the run {reprlib.repr(wrong[0])}, not a whole number from 0 to {pixels}"
        runs = np.array(counts, np.int64)
    else:
        return f"has the counts {reprlib.repr(counts)}, neither a list nor a string"
    if runs.size and runs.min() < 0:
        return f"has a run of {runs.min()} pixels"
    if (total := int(runs.sum())) != pixels:
        return f"has runs of {total:,} pixels, the image has {pixels:,}"
    return None


def _decompressed(counts: str) -> NDArray[np.int64] | str:
    """The runs of a compressed string, int64 (n,), or the reason why it has none."""
    groups = np.frombuffer(counts.encode(errors="replace"), np.uint8).astype(np.int64)
    if not groups.size or groups.min() < _FIRST or groups.max() > _LAST:
        return f"has the counts {reprlib.repr(counts)}, not COCO's compressed run lengths"
    groups -= _FIRST
    ends = np.flatnonzero(groups & 0x20 == 0)
    if not ends.size or ends[-1] != groups.size - 1:
        return f"has the counts {reprlib.repr(counts)}, which are cut off within a run"
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        return f"has a run of {lengths.max()} characters, the limit is {_MAX_CHARACTERS}"
    place = np.arange(groups.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((groups & 0x1F) << 5 * place, starts)
    runs -= np.where(groups[ends] & 0x10, 1 << 5 * lengths, 0)
    # From the fourth on, a run is written as its difference to the run two before.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def as_numbers(values: Any) -> NDArray[np.float64] | None:
    """A list of finite numbers as float64 (n,), or None for anything else."""
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        return None
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def position_problem(corners: NDArray[np.float64], size: tuple[int, int]) -> str | None:
    """The reason why points x, y (n, 2) are too far outside an image (height, width), or None."""
    limits = np.array([size[1], size[0]], np.float64)
    far = corners[((corners < -limits) | (corners > 2 * limits)).any(axis=1)]
    if not len(far):
        return None
    return (
        f"point ({far[0, 0]:g}, {far[0, 1]:g}), which is farther outside the image "
        f"({size[0]}x{size[1]}) than the image is wide or high"
    )


#: One entry of a table of a COCO file.
Entry = Mapping[str, Any]

#: The largest area that COCO's evaluation counts, in square pixels.
_MAX_AREA = 1e10


def objects_by_image(
    images: Sequence[Entry],
    annotations: Sequence[Entry],
    class_ids: Mapping[int, int],
    problems: list[str],
) -> Mapping[int, list[AnnotatedObject]]:
    """The annotated objects by image id, in the `class_ids` of the model by category id. What is
    wrong with an annotation is added to `problems`."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    objects: dict[int, list[AnnotatedObject]] = defaultdict(list)
    problems += repeated("annotations", "id", annotations)
    for position, annotation in enumerate(annotations):
        image_id, category_id = annotation["image_id"], annotation["category_id"]
        try:
            if image_id not in sizes:
                raise BadInput(f"is of image {image_id}, which is not listed")
            if category_id not in class_ids:
                raise BadInput(f"is of category {category_id}, which is not listed")
            objects[image_id].append(_object(annotation, sizes[image_id], class_ids[category_id]))
        except BadInput as error:
            name = annotation.get("id", f"number {position} of the file")
            problems.append(f"annotation {name} {error}")
    return objects


def repeated(table: str, field: str, entries: Sequence[Entry]) -> list[str]:
    """A problem for each value of a field that several entries of a table have."""
    values = Counter(entry[field] for entry in entries if field in entry)
    return [f"two {table} have the {field} {v!r}" for v, times in values.items() if times > 1]


def _object(annotation: Entry, size: tuple[int, int], class_id: int) -> AnnotatedObject:
    """The object of an annotation; BadInput continues the sentence "annotation 7 ..."."""
    for field in ("bbox", "segmentation"):
        if not annotation.get(field):
            raise BadInput(f"has no {field}; box and mask AP need both")
    box = as_numbers(annotation["bbox"])
    if box is None or len(box) != 4:
        raise BadInput(f"has the bbox {reprlib.repr(annotation['bbox'])}, not 4 numbers")
    left, top, width, height = box.tolist()
    if width < 0 or height < 0:
        raise BadInput(f"has a bbox of negative size, {width:g} wide and {height:g} high")
    corners = np.array([[left, top], [left + width, top + height]])
    if problem := position_problem(corners, size):
        raise BadInput(f"has a bbox with the {problem}")
    area = as_numbers([annotation.get("area", width * height)])
    if area is None or not 0 <= area[0] <= _MAX_AREA:
        raise BadInput(
            f"has the area {reprlib.repr(annotation['area'])}, not a number from 0 to {_MAX_AREA:g}"
        )
    crowd = annotation.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise BadInput(f"has the iscrowd {reprlib.repr(crowd)}, neither 0 nor 1")
    segmentation = annotation["segmentation"]
    if problem := segmentation_problem(segmentation, size):
        raise BadInput(problem)
    if isinstance(segmentation, dict):
        segmentation = {"size": list(size), "counts": segmentation["counts"]}
    return AnnotatedObject(
        class_id, (left, top, width, height), float(area[0]), bool(crowd), segmentation
    )
