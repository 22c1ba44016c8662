"""Triton step: encoded images to the network's input.

Copied into model repositories together with `telemetry.py` and `dfvt_tasks`, on which alone it
depends.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

sys.path.insert(0, str(Path(__file__).absolute().parent))

from dfvt_tasks.images import ImageError, ImageLimits, decode_image, normalise
from telemetry import Telemetry


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        self.task = importlib.import_module("dfvt_tasks." + parameters["task"])
        self.limits = ImageLimits(int(parameters["max_bytes"]), int(parameters["max_pixels"]))
        self.options = json.loads(parameters["options"])
        self.float_input = parameters["input"] == "float32"
        fast = "fast_decode" in parameters
        self.resized_size = partial(self.task.resized_size, **self.options) if fast else None
        self.telemetry = Telemetry(args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self.telemetry.timed(self._answer, request) for request in requests]

    def _answer(self, request: Any) -> Any:
        encoded = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
        try:
            tensors = self.task.preprocess_batch(self._decoded(encoded), **self.options)
        except ImageError as error:
            return self.telemetry.refusal(request, error, [len(data) for data in encoded])
        if self.float_input:
            tensors["images"] = normalise(tensors["images"])
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(k, np.ascontiguousarray(v)) for k, v in tensors.items()]
        )

    def _decoded(self, encoded: Any) -> Iterator[Image.Image]:
        for number, data in enumerate(encoded, start=1):
            try:
                yield decode_image(bytes(data), self.limits, self.resized_size)
            except ImageError as error:
                if len(encoded) == 1:
                    raise
                text = f"image {number} of {len(encoded)}: {error}"
                raise ImageError(text, error.reason) from error
