"""Triton step: the network's outputs to answers.

Copied into model repositories together with `telemetry.py` and `dfvt_tasks`, on which alone it
depends.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).absolute().parent
sys.path.insert(0, str(HERE))

from dfvt_tasks.images import ImageError  # noqa: E402
from telemetry import Telemetry  # noqa: E402


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        self.task = importlib.import_module("dfvt_tasks." + parameters["task"])
        self.options = json.loads(parameters["options"])
        self.on_request = json.loads(parameters["on_request"])
        # Only LF ends a label: splitlines() would also end it at other separators.
        text = (HERE / "labels.txt").read_bytes().decode()
        self.labels = text.removesuffix("\n").split("\n")
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.telemetry = Telemetry(args)

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self.telemetry.timed(self._answer, request) for request in requests]

    def _answer(self, request: Any) -> Any:
        outputs = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self.inputs
        }
        try:
            options = dict(self.options)
            if self.on_request:
                options["wanted"] = request.requested_output_names()
            answers = self.task.postprocess_batch(outputs, self.labels, **options)
        except ImageError as error:
            return self.telemetry.refusal(request, error)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(k, np.ascontiguousarray(v)) for k, v in answers.items()]
        )
