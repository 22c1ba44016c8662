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
from copies import SharedCores
from cores import usable_cores

#: Microseconds for which threads wait for work before they sleep.
_SPIN_US = "50"


class TritonPythonModel(BatchingModel):  # type: ignore[misc]
    runtime = "onnxruntime"

    def load(self, config: Mapping[str, Any], args: Mapping[str, str]) -> None:
        cores = usable_cores()
        threads = int(self.parameters.get("intra_op_thread_count", 0)) or cores
        self.cores = SharedCores(config, self.onnx_file, threads, cores)
        providers: list[Any] = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU":
            device = {"device_id": int(args["model_instance_device_id"])}
            providers.insert(0, ("CUDAExecutionProvider", device))
        self.sessions = {
            threads: onnxruntime.InferenceSession(
                str(self.onnx_file), self._options(threads), providers=providers
            )
            for threads in {self.cores.alone, self.cores.shared}
        }

    def _options(self, threads: int) -> Any:
        get = self.parameters.get
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = int(get("inter_op_thread_count", 0))
        options.enable_cpu_mem_arena = get("enable_mem_arena", "1") == "1"
        options.enable_mem_pattern = get("enable_mem_pattern", "1") == "1"
        # Threads that spin for long would take the cores that decode the next images; threads that
        # sleep at once add a tenth to the time of an image. Before 1.26 there is no time between.
        release = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
        if release >= (1, 26):
            options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
            options.add_session_config_entry("session.force_spinning_stop", "1")
        else:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def infer(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        try:
            with self.cores.threads() as threads:
                results = self.sessions[threads].run(self.outputs, dict(feed))
        except InvalidArgument as error:
            raise InvalidRequest(str(error)) from error
        return dict(zip(self.outputs, results, strict=True))
