"""Triton's onnxruntime backend: the ONNX file of a precision, on the CPU or a GPU."""

from typing import Any

from ...artifact import Artifact
from ..options import PopulateOptions
from ..served_model import NetworkFiles, ServedModel
from . import Backend, add_parameters

#: The name of an ONNX file in a repository, whatever its precision.
ONNX_FILE = "model.onnx"


def onnx_file(artifact: Artifact, options: PopulateOptions, *_: object) -> NetworkFiles:
    """The ONNX file of a precision."""
    target = options.chosen_backend.facts.int8_target
    return NetworkFiles({ONNX_FILE: artifact.onnx_path(options.file_precision, target)}, ONNX_FILE)


def _configure(config: Any, model: ServedModel) -> None:
    if model.options.chosen_device == "cpu":
        threads = model.options.threads or 0
        add_parameters(config, intra_op_thread_count=threads, inter_op_thread_count=1)
    if not model.task.arena:
        add_parameters(config, enable_mem_arena=0, enable_mem_pattern=0)


BACKEND = Backend(onnx_file, _configure)
