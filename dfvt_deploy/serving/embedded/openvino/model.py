"""A Python-based Triton backend: `backend: "openvino"` where NVIDIA's own is not installed.

It serves the repositories that NVIDIA's backend serves, unchanged, and reads those of its
settings that `populate` writes. Without HINT_BF16 what an INT8 file leaves in floating point is
computed in float32.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from batching import BatchingModel
from cores import usable_cores
from dfvt_openvino import CompiledModels


class TritonPythonModel(BatchingModel):  # type: ignore[misc]
    runtime = "openvino"

    def load(self, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        precision = "bf16" if self.parameters.get("HINT_BF16") == "YES" else "f32"
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": self.parameters.get("INFERENCE_NUM_THREADS", usable_cores()),
        }
        self.models = CompiledModels(self.onnx_file, settings)
        if (found := self.models.precision) != precision:
            raise pb_utils.TritonModelException(
                f"openvino: this CPU computes in {found}, not in {precision}; populate with "
                "--backend onnxruntime"
            )
        self.models.compile_all()

    def infer(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        results = self.models.infer(feed)
        return {name: results[name] for name in self.outputs}
