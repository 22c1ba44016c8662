"""What the Python-based backends share; copied beside the model.py of each."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class InvalidRequest(Exception):
    """The request does not fit the model; its sender is told so."""


class BatchingModel(ABC):
    """Runs a batch that the server made of several requests as one.

    A backend sets `runtime`, the name that its errors begin with, and has `load` and `infer`.
    """

    runtime: str

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        return config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.batched = config["max_batch_size"] > 0
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.folder = Path(args["model_repository"]) / args["model_version"]
        self.onnx_file = self.folder / (config.get("default_model_filename") or "model.onnx")
        self.parameters = {k: v["string_value"] for k, v in config.get("parameters", {}).items()}
        self.load(config, args)

    @abstractmethod
    def load(self, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        """Load the network of a model, by its config and Triton's arguments."""

    @abstractmethod
    def infer(self, feed: Mapping[str, Any]) -> Mapping[str, Any]:
        """Outputs by name for arrays by name; raises InvalidRequest where they do not fit."""

    def execute(self, requests: list[Any]) -> list[Any]:
        if len(requests) == 1 or not self.batched:
            return [self._alone(request) for request in requests]
        feeds = [self._feed(request) for request in requests]
        sizes = [len(feed[self.inputs[0]]) for feed in feeds]
        try:
            results = self.infer(
                {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
            )
        except Exception:  # each is run alone, so that only those at fault fail
            return [self._alone(request) for request in requests]
        ends = np.cumsum(sizes)
        return [
            self._response({name: results[name][end - size : end] for name in self.outputs})
            for size, end in zip(sizes, ends, strict=True)
        ]

    def _alone(self, request: Any) -> Any:
        try:
            return self._response(self.infer(self._feed(request)))
        except Exception as error:
            return self._failed(error)

    def _feed(self, request: Any) -> dict[str, Any]:
        return {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self.inputs
        }

    def _response(self, results: Mapping[str, Any]) -> Any:
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, np.ascontiguousarray(results[name])) for name in self.outputs]
        )

    def _failed(self, error: Exception) -> Any:
        code = (
            pb_utils.TritonError.INVALID_ARG
            if isinstance(error, InvalidRequest)
            else pb_utils.TritonError.INTERNAL
        )
        message = f"{self.runtime}: {error}"
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
