"""`predict`: image files to answers of a running Triton, which can be drawn on their images."""

import base64
import glob
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..drawing import DRAWN_SCORE, drawing_of
from ..errors import BadInput, DfvtError
from ..files import staged
from ..image_files import SUFFIXES, find_images
from ..runners.triton import TritonRunner, image_request
from ..tasks.images import MOST_PIXELS, ImageLimits, decode_image
from ..types import Task, TritonProtocol
from .tasks import served_task, task_of

#: The server that answered has its own limits.
_ANY_SIZE = ImageLimits(max_bytes=2**31, max_pixels=MOST_PIXELS)


@dataclass(frozen=True)
class Prediction:
    """The ensemble's answer for one image.

    task: the task of the model, known by the names of its outputs.
    outputs: outputs of the ensemble (docs/serving.md) without their batch dimension; text is
        decoded, other bytes are objects.
    milliseconds: from sending the request to having the answer.
    bytes_sent, bytes_received: size of the tensors.
    """

    image: str
    task: Task
    outputs: dict[str, NDArray[Any]]
    milliseconds: float
    bytes_sent: int
    bytes_received: int

    def as_json(self) -> dict[str, Any]:
        """Plain data for JSON; an output of bytes, such as a PNG, becomes base64."""
        outputs = {
            name: base64.b64encode(value.item()).decode()
            if value.dtype == np.object_
            else value.tolist()
            for name, value in self.outputs.items()
        }
        return {**vars(self), "outputs": outputs, "milliseconds": round(self.milliseconds, 3)}


def predict(
    images: Sequence[str | Path],
    model: str,
    *,
    url: str | None = None,
    protocol: TritonProtocol | str = TritonProtocol.GRPC,
    version: str = "",
    min_score: float | None = None,
    timeout: float = 60,
    failed: Callable[[str, DfvtError], None] | None = None,
) -> Iterator[Prediction]:
    """Send each image file as it is, one a request, and yield the answers in order.

    url: `host:port` of the protocol; Triton's default port on the loopback address if None.
    version: version of the model; the live one if empty.
    min_score: least score of an answer that is kept; all are kept if None.
    timeout: seconds for one request.
    failed: called with an image that cannot be read or is refused and its error, after which the
        next image follows; without it the error is raised.
    Raises BadInput where an image cannot be read, the server refuses it, or the model is not a
    whole one, ServerFailed where nobody answers, or the server failed.
    """
    with TritonRunner(model, url or "", protocol, version=version, timeout=timeout) as runner:
        for image in images:
            try:
                prediction = _predict_one(runner, image)
            except BadInput as error:
                if failed is None:
                    raise
                failed(str(image), error)
            else:
                yield prediction if min_score is None else _above(prediction, min_score)


def _predict_one(runner: TritonRunner, image: str | Path) -> Prediction:
    encoded = read_image(image)
    start = time.perf_counter()
    try:
        outputs = runner.infer(image_request(encoded))
    except BadInput as error:
        raise BadInput(f"{image}: {error}") from error
    seconds = time.perf_counter() - start
    if (task := task_of(outputs)) is None:
        raise BadInput(
            f"{runner.model} answers {', '.join(outputs)}, which is a step's answer; predict asks "
            "whole models, as dfvt_s_classification"
        )
    texts = {spec.name for spec in served_task(task).answers if spec.dtype == "string"}
    return Prediction(
        image=str(image),
        task=task,
        outputs={k: _decoded(v[0]) if k in texts else v[0] for k, v in outputs.items()},
        milliseconds=seconds * 1000,
        bytes_sent=len(encoded),
        bytes_received=sum(map(payload, outputs.values())),
    )


def image_paths(patterns: Sequence[str]) -> list[Path]:
    """The image files that paths, folders (with their subfolders) and patterns with `*`, `?` or `[`
    name; what exists is no pattern. Raises BadInput where a folder or a pattern gives no image."""
    found: list[Path] = []
    for text in patterns:
        path = Path(text)
        images, lacking = [path], f"folder {text} holds no {', '.join(SUFFIXES)} file"
        if path.is_dir():
            images = find_images(path)
        elif glob.has_magic(text) and not path.exists():
            matches = map(Path, sorted(glob.glob(text, recursive=True)))  # noqa: PTH207
            images, lacking = [*filter(Path.is_file, matches)], f"no file fits the pattern {text!r}"
        if not images:
            raise BadInput(lacking)
        found += images
    return list(dict.fromkeys(found))


def read_image(path: str | Path) -> bytes:
    """The bytes of an image file; BadInput where it cannot be read or is not a regular file."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise BadInput(f"image {path} is not a file")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"image {path} cannot be read: {reason}") from error


def _above(prediction: Prediction, min_score: float) -> Prediction:
    """The prediction with its scored answers of at least `min_score`; others stay as they are."""
    outputs, task = prediction.outputs, served_task(prediction.task)
    if not task.scored:
        raise BadInput(f"--min-score {min_score:g}: {prediction.task} gives no scores; omit it")
    rows = len(outputs["scores"]) if task.row_count is None else outputs[task.row_count].item()
    keep = np.flatnonzero(outputs["scores"][:rows] >= min_score)
    kept = {name: outputs[name][keep] for name in task.scored}
    if task.row_count is not None:
        kept[task.row_count] = np.array([len(keep)], np.int32)
    return replace(prediction, outputs=outputs | kept)


def _decoded(value: NDArray[Any]) -> NDArray[Any]:
    return np.array([item.decode() for item in value.reshape(-1)]).reshape(value.shape)


def payload(value: NDArray[Any]) -> int:
    """The bytes that a tensor takes in a request or an answer."""
    if value.dtype != np.object_:
        return value.nbytes
    return sum(4 + len(item) for item in value.reshape(-1))  # each string after its length


def draw_prediction(prediction: Prediction, min_score: float = DRAWN_SCORE) -> Image.Image:
    """The image of a prediction with the answers in it, detections only from `min_score`. Raises
    BadInput where the image cannot be read any more."""
    image = decode_image(read_image(prediction.image), _ANY_SIZE)
    return drawing_of(prediction.task).draw(image, prediction.outputs, min_score)


def save_picture(image: Image.Image, source: str, directory: Path, taken: set[Path]) -> Path:
    """Save an image as `<directory>/<name of source>.png`, with a number where that is among the
    resolved paths `taken`, which the saved path is added to."""
    stem = Path(source).stem
    path, number = directory / f"{stem}.png", 1
    while path.resolve() in taken:
        number += 1
        path = directory / f"{stem}-{number}.png"
    with staged(path) as temporary:
        image.save(temporary, "PNG")
    taken.add(path.resolve())
    return path
