"""`predict`: image files to answers of a running Triton."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from ..runners.triton import Protocol, TritonRunner
from ..tasks import detection, segmentation
from ..types import Task

#: Outputs by which a task's answer is known.
_ANSWERS = ({"class_ids", "scores", "labels"}, {"class_map"})

#: Outputs whose strings are bytes, not text.
BINARY = ("class_map",)


@dataclass(frozen=True)
class Prediction:
    """The ensemble's answer for one image.

    outputs: the ensemble's outputs (docs/serving.md) without their batch dimension, text decoded.
    milliseconds: from sending to having the answer.
    bytes_sent, bytes_received: payload of the tensors.
    """

    image: str
    outputs: dict[str, NDArray[Any]]
    milliseconds: float
    bytes_sent: int
    bytes_received: int

    @property
    def task(self) -> Task:
        """Told by the outputs, which are each task's own."""
        if "class_map" in self.outputs:
            return Task.SEGMENTATION
        return Task.DETECTION if "num_detections" in self.outputs else Task.CLASSIFICATION

    @property
    def class_map(self) -> NDArray[Any]:
        """The decoded class map of a segmentation, (H, W) at the size of the image."""
        return segmentation.decode_class_map(self.outputs["class_map"].item())

    @property
    def detections(self) -> detection.DetectionResult:
        """What a detector found, without the unused rows."""
        return detection.result_from_answers(self.outputs)

    def as_json(self) -> dict[str, Any]:
        """Plain data; the bytes of a PNG as base64."""
        outputs = {
            name: base64.b64encode(value.item()).decode() if name in BINARY else value.tolist()
            for name, value in self.outputs.items()
        }
        return {**vars(self), "outputs": outputs, "milliseconds": round(self.milliseconds, 3)}


def predict(
    images: Sequence[str | Path],
    model: str,
    *,
    url: str | None = None,
    protocol: Protocol = "grpc",
    version: str = "",
    timeout: float = 60,
) -> Iterator[Prediction]:
    """Send each image as it is, one a request, and yield the answers in order.

    Raises:
        BadInput: an image cannot be read, or the server refuses it.
        ServerFailed: nobody answers, or the server failed.
    """
    with TritonRunner(model, url, protocol, version=version, timeout=timeout) as runner:
        for image in images:
            encoded = read_image(image)
            start = time.perf_counter()
            try:
                outputs = runner.infer({"image": np.array([[encoded]], dtype=np.object_)})
            except BadInput as error:
                raise BadInput(f"{image}: {error}") from error
            seconds = time.perf_counter() - start
            if not any(answer <= outputs.keys() for answer in _ANSWERS):
                raise BadInput(
                    f"{model} answers {', '.join(outputs)}, which is a step's answer; predict asks "
                    "whole models, as dfvt_s_classification"
                )
            yield Prediction(
                image=str(image),
                outputs={
                    name: value[0] if name in BINARY else _text(value[0])
                    for name, value in outputs.items()
                },
                milliseconds=seconds * 1000,
                bytes_sent=len(encoded),
                bytes_received=sum(map(_payload, outputs.values())),
            )


def read_image(path: str | Path) -> bytes:
    """The bytes of an image file."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"image {path} cannot be read: {error.strerror}") from error


def _text(value: NDArray[Any]) -> NDArray[Any]:
    if value.dtype != np.object_:
        return value
    return np.array([item.decode() for item in value.reshape(-1)]).reshape(value.shape)


def _payload(value: NDArray[Any]) -> int:
    if value.dtype != np.object_:
        return value.nbytes
    return sum(4 + len(item) for item in value.reshape(-1))  # each string after its length
