"""Triton's openvino backend: model.onnx in bfloat16, or the INT8 file, on the CPU.

NVIDIA's backend has no setting for float32: it leaves OpenVINO to choose bfloat16 where the CPU
can. So `fp32` is refused.
"""

from typing import Any

from ...types import Precision
from ..served_model import ServedModel
from . import Backend, add_parameters
from .onnxruntime import onnx_file


def _configure(config: Any, model: ServedModel) -> None:
    add_parameters(config, PERFORMANCE_HINT="LATENCY", NUM_STREAMS=1)
    if model.options.threads:
        add_parameters(config, INFERENCE_NUM_THREADS=model.options.threads)
    if model.options.chosen_precision is Precision.BF16:
        add_parameters(config, HINT_BF16="YES")


BACKEND = Backend(onnx_file, _configure, packages={"dfvt_openvino": "dfvt_deploy.openvino_models"})
