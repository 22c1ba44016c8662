"""A Python-based Triton backend: `backend: "openvino"` where NVIDIA's own is not installed.

It serves the repositories that NVIDIA's backend serves, unchanged, and reads those of its
settings that `populate` writes. Without HINT_BF16 what an INT8 file leaves in floating point is
computed in float32.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from batching import BatchingModel


class TritonPythonModel(BatchingModel):  # type: ignore[misc]
    runtime = "openvino"

    def load(self, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        precision = "bf16" if self.parameters.get("HINT_BF16") == "YES" else "f32"
        settings = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": "1"}
        if "INFERENCE_NUM_THREADS" in self.parameters:
            settings["INFERENCE_NUM_THREADS"] = self.parameters["INFERENCE_NUM_THREADS"]
        model = openvino.Core().compile_model(self.onnx_file, "CPU", settings)
        found = model.get_property("INFERENCE_PRECISION_HINT").to_string()
        if found != precision:
            raise pb_utils.TritonModelException(
                f"openvino: this CPU computes in {found}, not in {precision}; populate with "
                "--backend onnxruntime"
            )
        self.request = model.create_infer_request()

    def infer(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        results = self.request.infer(dict(feed), share_inputs=True)
        return {name: results[name] for name in self.outputs}
