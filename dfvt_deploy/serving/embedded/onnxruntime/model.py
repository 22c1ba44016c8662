"""A Python-based Triton backend: `backend: "onnxruntime"` where NVIDIA's own is not installed.

It serves the repositories that NVIDIA's backend serves, unchanged, and reads those of its
settings that `populate` writes.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

sys.path.insert(0, str(Path(__file__).resolve().parent))

from batching import BatchingModel, InvalidRequest
from cores import usable_cores


class TritonPythonModel(BatchingModel):  # type: ignore[misc]
    runtime = "onnxruntime"

    def load(self, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        get = self.parameters.get
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(get("intra_op_thread_count", 0)) or usable_cores()
        options.inter_op_num_threads = int(get("inter_op_thread_count", 0))
        # Waiting threads that spin would take the cores that decode the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = get("enable_mem_arena", "1") == "1"
        options.enable_mem_pattern = get("enable_mem_pattern", "1") == "1"
        providers: list[Any] = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU":
            device = {"device_id": int(args["model_instance_device_id"])}
            providers.insert(0, ("CUDAExecutionProvider", device))
        self.session = onnxruntime.InferenceSession(
            str(self.onnx_file), options, providers=providers
        )

    def infer(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        try:
            results = self.session.run(self.outputs, dict(feed))
        except InvalidArgument as error:
            raise InvalidRequest(str(error)) from error
        return dict(zip(self.outputs, results, strict=True))
