"""Parts of an ONNX model that export, conversion and comparison share."""

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from . import __version__
from .errors import ArtifactError
from .manifest import TensorSpec

#: Newest IR version that the oldest supported server reads (onnxruntime 1.19, Triton 24.10).
MAX_IR_VERSION = 10


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file. Raises ArtifactError where it cannot be read, or is damaged."""
    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtifactError(f"{path} cannot be read as ONNX: {error}; make it again") from error
    if not model.graph.node:
        raise ArtifactError(f"{path} is no ONNX model: its graph has no nodes; make it again")
    return model


def strip(model: onnx.ModelProto) -> None:
    """Name this package as the producer of a graph, and remove all other metadata from it."""
    model.producer_name = "dfvt-deploy"
    model.producer_version = __version__
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
        value.doc_string = ""


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """Count a graph's nodes by operator, the most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def tensor_specs(values: Any) -> tuple[TensorSpec, ...]:
    """Names, dtypes and shapes of `model.graph.input` or `model.graph.output`."""
    specs = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
        specs.append(TensorSpec(name=value.name, dtype=dtype, shape=shape))
    return tuple(specs)
