"""A Python-based Triton backend: `backend: "onnxruntime"` where NVIDIA's own is not installed.

It serves the repositories that NVIDIA's backend serves, unchanged, and reads those of its
settings that `populate` writes. A batch that the server made of several requests runs as one.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        return config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        directory = Path(args["model_repository"]) / args["model_version"]
        path = directory / (config.get("default_model_filename") or "model.onnx")
        parameters = {k: v["string_value"] for k, v in config.get("parameters", {}).items()}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
        options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
        options.enable_cpu_mem_arena = parameters.get("enable_mem_arena", "1") == "1"
        options.enable_mem_pattern = parameters.get("enable_mem_pattern", "1") == "1"
        providers: list[Any] = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU":
            device = {"device_id": int(args["model_instance_device_id"])}
            providers.insert(0, ("CUDAExecutionProvider", device))
        self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.batched = config["max_batch_size"] > 0
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        if len(requests) == 1 or not self.batched:
            return [self._alone(request) for request in requests]
        feeds = [self._feed(request) for request in requests]
        sizes = [len(feed[self.inputs[0]]) for feed in feeds]
        try:
            merged = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
            results = self.session.run(self.outputs, merged)
        except Exception as error:
            return [_failed(error) for _ in requests]
        ends = np.cumsum(sizes)
        return [
            self._response([result[end - size : end] for result in results])
            for size, end in zip(sizes, ends, strict=True)
        ]

    def _alone(self, request: Any) -> Any:
        try:
            return self._response(self.session.run(self.outputs, self._feed(request)))
        except Exception as error:
            return _failed(error)

    def _feed(self, request: Any) -> dict[str, Any]:
        return {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self.inputs
        }

    def _response(self, results: list[Any]) -> Any:
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.ascontiguousarray(result))
                for name, result in zip(self.outputs, results, strict=True)
            ]
        )


def _failed(error: Exception) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"onnxruntime: {error}"))
