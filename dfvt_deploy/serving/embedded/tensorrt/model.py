"""A Python-based Triton backend: `backend: "tensorrt"` where NVIDIA's own is not installed.

It serves the repositories that NVIDIA's backend serves, unchanged, and those with TensorRT-RTX
plans, which NVIDIA's cannot load.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from batching import BatchingModel, InvalidRequest
from dfvt_gpu.devices import GpuError, InvalidInput, gpu
from dfvt_gpu.plan import LoadedPlan


class TritonPythonModel(BatchingModel):  # type: ignore[misc]
    runtime = "tensorrt"

    def load(self, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        device = int(args["model_instance_device_id"])
        try:
            found = gpu(device)
            plans = config.get("cc_model_filenames") or {}
            name = plans.get(found.compute_capability) or config.get("default_model_filename")
            if plans and not (self.folder / (name or "")).is_file():
                raise GpuError(
                    f"there is no plan for {found.name}, compute capability "
                    f"{found.compute_capability}; there are for {', '.join(sorted(plans))}"
                )
            self.plan = LoadedPlan(self.folder / name, device)
        except (GpuError, OSError) as error:
            raise pb_utils.TritonModelException(f"tensorrt: {error}") from error

    def infer(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.plan.infer(feed)
        except InvalidInput as error:
            raise InvalidRequest(str(error)) from error

    def finalize(self) -> None:
        self.plan.__exit__()
