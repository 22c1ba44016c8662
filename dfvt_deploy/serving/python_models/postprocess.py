"""Triton step: the network's outputs to answers.

Copied into model repositories together with `dfvt_tasks`, on which alone it depends.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from dfvt_tasks.images import ImageError  # noqa: E402


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config["parameters"].items()}
        self.task = importlib.import_module("dfvt_tasks." + parameters["task"])
        self.options = json.loads(parameters["options"])
        self.labels = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
        self.inputs = [tensor["name"] for tensor in config["input"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        outputs = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self.inputs
        }
        try:
            answers = self.task.answers(outputs, self.labels, **self.options)
        except ImageError as error:
            refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=refusal)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(k, np.ascontiguousarray(v)) for k, v in answers.items()]
        )
