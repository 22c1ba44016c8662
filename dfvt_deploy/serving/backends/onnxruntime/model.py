"""A Python-based Triton backend: `backend: "onnxruntime"` where NVIDIA's own is not installed.

It serves the repositories that NVIDIA's backend serves, unchanged, and reads those of its
settings that `populate` writes.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parent))

from batching import BatchingModel


class TritonPythonModel(BatchingModel):  # type: ignore[misc]
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.read_config(config)
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

    def infer(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        try:
            results = self.session.run(self.outputs, dict(feed))
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise RuntimeError(f"onnxruntime: {error}") from error
        return dict(zip(self.outputs, results, strict=True))
