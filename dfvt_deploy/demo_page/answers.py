"""The answers of a running Triton server as data for the page: rows, pictures and times."""

import base64
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..compare.detection import box_iou
from ..data import palette
from ..drawing import Answers, text
from ..drawing.segmentation import class_shares
from ..errors import BadInput
from ..explaining.heat_maps import ask_server, heat_colours, occlusion_maps
from ..explaining.task_explanation import TaskExplanation
from ..names import STEPS
from ..runners.triton import TritonRunner
from ..serving.http_api import read_document
from ..serving.tasks import task_of
from ..tasks.detection import result_from_answers
from ..tasks.images import ImageError, decode_image
from ..tasks.segmentation import decode_class_map
from ..types import Task, TritonProtocol

#: The longest side of the pictures that are sent to the page, in pixels.
_SIDE = 800

#: Windows along each side that a heat map is made from.
_GRID = 6

#: The least overlap (IoU) of two detections that show the same object.
_SAME = 0.5


def served_models(url: str) -> list[str]:
    """`name:version` of each whole model that a server has loaded. Raises ServerFailed where nobody
    answers, or the server does not tell its models."""
    found = []
    for each in read_document(url, "models/stats")["model_stats"]:
        name, version = each["name"], each["version"]
        if not name.endswith(tuple(f"_{step}" for step in STEPS)):
            outputs = read_document(url, f"models/{name}/versions/{version}")["outputs"]
            if task_of({output["name"]: None for output in outputs}):
                found.append(f"{name}:{version}")
    return found


def answer(url: str, sides: Sequence[str], data: bytes, timeout: float) -> list[dict[str, Any]]:
    """What each side, a `name:version`, answers for an encoded image, and how two of them differ.
    Raises BadInput where the image or a side cannot be used, ServerFailed for no answer."""
    _decoded(data)
    found, raw = [], []
    for side in sides:
        name, _, version = side.rpartition(":")
        before = _spent(url, name)
        with TritonRunner(name, url, TritonProtocol.HTTP, version=version, timeout=timeout) as one:
            start = time.perf_counter()
            outputs = one.infer({"image": np.array([[data]], np.object_)})
            times = {"request": 1000 * (time.perf_counter() - start)}
        for step, (count, spent) in _spent(url, name).items():
            if requests := count - before[step][0]:
                times[step] = (spent - before[step][1]) / requests / 1e6
        raw.append({name: value[0] for name, value in outputs.items()})
        found.append({"side": side, "milliseconds": times, **_shown(raw[-1])})
    if len(raw) == 2 and raw[0].keys() == raw[1].keys():
        _mark_differences(found, raw)
    return found


def heat_map(url: str, side: str, data: bytes, timeout: float) -> dict[str, str]:
    """The best answer and its occlusion map, whose cold parts are clear. Raises as `answer`."""
    name, _, version = side.rpartition(":")
    image = _decoded(data)
    image.thumbnail((_SIDE, _SIDE))
    with TritonRunner(name, url, TritonProtocol.HTTP, version=version, timeout=timeout) as one:
        answers = ask_server(one, image)
        if (kind := task_of(answers)) is None:
            raise BadInput(f"{side} is no whole model, as dfvt_s_classification is")
        task: TaskExplanation = kind.entry("explaining", "EXPLANATION")
        names = text(answers["labels"])
        ids = answers.get("class_ids", np.arange(len(names))).tolist()
        targets = task.targets(answers, dict(zip(ids, names, strict=True)), (), (), 1)
        if not targets:
            raise BadInput(f"{side} finds nothing in this image that a heat map could explain")
        (heat,) = occlusion_maps(task, _GRID, partial(ask_server, one), image, targets)
    levels, colours = heat_colours(heat)
    return {"target": targets[0].name, "picture": _png(colours, levels)}


def _decoded(data: bytes) -> Image.Image:
    try:
        return decode_image(data)
    except ImageError as error:
        raise BadInput(str(error)) from error


def _spent(url: str, name: str) -> dict[str, tuple[int, int]]:
    """How many requests each step has answered, and their nanoseconds."""
    found = {}
    for step in STEPS:
        each = read_document(url, f"models/{name}_{step}/stats")["model_stats"][-1]
        done = each["inference_stats"]["success"]
        found[step] = int(done["count"]), int(done["ns"])
    return found


def _shown(answers: Answers) -> dict[str, Any]:
    """Rows of label, colour and value (0 to 1), with box and mask, or beside the class map."""
    labels = text(answers["labels"])
    if "class_map" in answers:
        class_map = decode_class_map(answers["class_map"].item())
        colours = palette(Task.SEGMENTATION, len(labels))
        rows = [_row(labels[i], share, colours[i]) for i, share in class_shares(class_map)]
        pixels = colours[_small(class_map)]
        return {"rows": rows, "map": _png(pixels, np.full(pixels.shape[:2], 255, np.uint8))}
    scores, ids = answers["scores"].tolist(), answers["class_ids"].tolist()
    if "boxes" not in answers:
        bar = np.array([43, 108, 176])
        return {"rows": [_row(*named, bar) for named in zip(labels, scores, strict=True)]}
    found = result_from_answers(answers)
    colours = palette(Task.DETECTION, max(ids) + 1)
    parts = zip(labels, scores, ids, found.boxes.tolist(), found.masks, strict=False)
    return {
        "rows": [
            _row(label, score, colours[i]) | {"box": box, "mask": mask}
            for label, score, i, box, mask in parts
        ]
    }


def _row(label: str, value: float, colour: NDArray[Any]) -> dict[str, Any]:
    return {"label": label, "value": value, "colour": f"#{bytes(colour.tolist()).hex()}"}


def _mark_differences(found: Sequence[dict[str, Any]], raw: Sequence[Answers]) -> None:
    """Mark the rows that the other side does not have, and the pixels of other classes."""
    for own, other in (found, found[::-1]):
        for place, row in enumerate(own["rows"]):
            same = [x for x in other["rows"] if x["label"] == row["label"]]
            if "box" in row:
                overlaps = box_iou([row["box"]], [x["box"] for x in same] or np.empty((0, 4)))[0]
                same = [x for x, iou in zip(same, overlaps, strict=True) if iou >= _SAME]
            elif "map" not in own:
                same = [x for x in same if other["rows"].index(x) == place]
            row["differs"] = not same
    if "map" in found[0]:
        maps = [decode_class_map(each["class_map"].item()) for each in raw]
        differs = _small((maps[0] != maps[1]).astype(np.uint8)) * 255
        for own in found:
            own["difference"] = _png(np.full((*differs.shape, 3), 255, np.uint8), differs)
            own["differing"] = float((maps[0] != maps[1]).mean())


def _small(values: NDArray[Any]) -> NDArray[Any]:
    """An image (H, W) of at most `_SIDE` pixels either way; values are not mixed."""
    scale = min(1, _SIDE / max(values.shape))
    size = max(1, round(values.shape[1] * scale)), max(1, round(values.shape[0] * scale))
    return cv2.resize(values, size, interpolation=cv2.INTER_NEAREST_EXACT)


def _png(colours: NDArray[Any], alpha: NDArray[Any]) -> str:
    """A picture of RGB colours (H, W, 3) and opacity (H, W) as a data URL."""
    _, encoded = cv2.imencode(".png", np.dstack([colours[..., ::-1], alpha]))
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()
