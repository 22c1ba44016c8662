"""Triton step: encoded images to the network's input.

Copied into model repositories together with `dfvt_tasks`, on which alone it depends.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from dfvt_tasks.images import ImageError, ImageLimits, decode_image, normalise


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        self.task = importlib.import_module("dfvt_tasks." + parameters["task"])
        self.limits = ImageLimits(int(parameters["max_bytes"]), int(parameters["max_pixels"]))
        self.options = json.loads(parameters["options"])
        self.float_input = parameters["input"] == "float32"

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        encoded = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
        try:
            tensors = self.task.network_inputs(self._decoded(encoded), **self.options)
        except ImageError as error:
            refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=refusal)
        if self.float_input:
            tensors["images"] = normalise(tensors["images"])
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(k, np.ascontiguousarray(v)) for k, v in tensors.items()]
        )

    def _decoded(self, encoded: Any) -> Iterator[Image.Image]:
        for number, data in enumerate(encoded, start=1):
            try:
                yield decode_image(bytes(data), self.limits)
            except ImageError as error:
                if len(encoded) == 1:
                    raise
                raise ImageError(f"image {number} of {len(encoded)}: {error}") from error
