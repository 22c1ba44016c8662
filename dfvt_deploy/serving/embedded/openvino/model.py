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
from copies import SharedCores
from cores import usable_cores
from dfvt_openvino import SIZES, CompiledModels


class TritonPythonModel(BatchingModel):  # type: ignore[misc]
    runtime = "openvino"

    def load(self, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        cores = usable_cores()
        threads = int(self.parameters.get("INFERENCE_NUM_THREADS", 0)) or cores
        self.cores = SharedCores(config, self.onnx_file, threads, cores)
        self.models = {
            threads: self._compiled(threads) for threads in {self.cores.alone, self.cores.shared}
        }

    def _compiled(self, threads: int) -> CompiledModels:
        precision = "bf16" if self.parameters.get("HINT_BF16") == "YES" else "f32"
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads,
        }
        # Fewer threads gain less from larger batches, and each size holds the weights once more.
        sizes = SIZES if threads == self.cores.alone else (4, 1)
        models = CompiledModels(self.onnx_file, settings, sizes)
        if (found := models.precision) != precision:
            raise pb_utils.TritonModelException(
                f"openvino: this CPU computes in {found}, not in {precision}; populate with "
                "--backend onnxruntime"
            )
        models.compile_all()
        return models

    def infer(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        with self.cores.threads() as threads:
            results = self.models[threads].infer(feed)
        return {name: results[name] for name in self.outputs}
