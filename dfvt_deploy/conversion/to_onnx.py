"""PyTorch to ONNX, simplified and checked."""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from .. import __version__
from ..artifact import TensorSpec
from ..errors import BadInput, StageFailed

DEFAULT_OPSET = 20

#: Below it LayerNormalization is decomposed, which overflows in FP16.
MIN_OPSET = 17

#: Newest opset that this code was tested with.
MAX_OPSET = 23

#: Opsets of torch's older exporter, which is asked first.
_TORCHSCRIPT_OPSETS = range(MIN_OPSET, 21)

#: Bound of a symbolic side, in its multiples; torch.export wants one.
_MAX_STEPS = 2048

#: Newest IR version that the oldest supported server reads (onnxruntime 1.19, Triton 24.10).
MAX_IR_VERSION = 10


@dataclass(frozen=True)
class ExportableGraph:
    """A module with example inputs, and which of their dimensions stay symbolic.

    inputs: examples by name; batches larger than 1, as torch.export fixes a batch of 1.
    dynamic: for each input its symbolic dimensions, axis to name.
    dynamic_outputs: the same for each output.
    multiples: symbolic dimensions that are multiples of a number, by name.
    loops: the module has loops, which TorchScript compiles and dynamo would unroll.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    dynamic_outputs: Mapping[str, Mapping[int, str]]
    multiples: Mapping[str, int] = field(default_factory=dict)
    loops: bool = False


def onnx_from_graph(graph: ExportableGraph, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Export with torch.onnx, as it comes; see `simplify` for the next step.

    Both of torch's exporters end in the same graph once simplified; the TorchScript one takes a
    tenth of the time and reaches down to opset 17, the dynamo one goes beyond opset 20
    (docs/design.md has the figures).

    Raises:
        BadInput: the opset is outside what this graph can be written in.
        StageFailed: torch cannot export it.
    """
    opsets = _TORCHSCRIPT_OPSETS if graph.loops else range(MIN_OPSET, MAX_OPSET + 1)
    if opset not in opsets:
        raise BadInput(f"opset {opset} is outside {opsets[0]}..{opsets[-1]} for this model")
    dynamo = opset not in _TORCHSCRIPT_OPSETS
    try:
        with _quiet(), torch.no_grad():
            model = _with_dynamo(graph, opset) if dynamo else _with_torchscript(graph, opset)
    except Exception as error:  # the exporters raise their own, changing types
        raise StageFailed(f"torch.onnx could not export at opset {opset}: {error}") from error
    found = next(entry.version for entry in model.opset_import if not entry.domain)
    if found != opset:  # dynamo keeps a newer one where it cannot convert, without an error
        raise StageFailed(
            f"the exporter wrote opset {found} where {opset} was asked for; use --opset {found}"
        )
    return model


def _with_dynamo(graph: ExportableGraph, opset: int) -> onnx.ModelProto:
    names = {name for axes in graph.dynamic.values() for name in axes.values()}
    dims = {
        name: graph.multiples[name] * torch.export.Dim(f"{name}_steps", min=1, max=_MAX_STEPS)
        if name in graph.multiples
        else torch.export.Dim(name)
        for name in sorted(names)
    }
    program = torch.onnx.export(
        graph.module,
        tuple(graph.inputs.values()),
        input_names=list(graph.inputs),
        output_names=list(graph.dynamic_outputs),
        dynamic_shapes={
            name: {axis: dims[dim] for axis, dim in graph.dynamic[name].items()}
            for name in graph.inputs
        },
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for value in model.graph.input:  # as the caller names them, not as `32*height_steps`
        for axis, name in graph.dynamic[value.name].items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    return model


def _with_torchscript(graph: ExportableGraph, opset: int) -> onnx.ModelProto:
    file = io.BytesIO()
    torch.onnx.export(
        graph.module,
        tuple(graph.inputs.values()),
        file,  # type: ignore[arg-type]  # the annotation knows paths only
        input_names=list(graph.inputs),
        output_names=list(graph.dynamic_outputs),
        dynamic_axes={**graph.dynamic, **graph.dynamic_outputs},
        opset_version=opset,
        dynamo=False,
    )
    return onnx.load_model_from_string(file.getvalue())


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporters tell about themselves (deprecations, absent torchvision)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold, fuse and infer shapes with onnxsim, check with ONNX, and leave nothing behind that
    tells of the machine it was made on.

    Raises:
        StageFailed: onnxsim or the ONNX checker refuses the graph.
    """
    import onnxsim

    try:
        simplified, _ = onnxsim.simplify(model)
        simplified = onnx.shape_inference.infer_shapes(
            simplified, check_type=True, strict_mode=True, data_prop=True
        )
        simplified.ir_version = min(simplified.ir_version, MAX_IR_VERSION)
        strip(simplified)
        onnx.checker.check_model(simplified, full_check=True)
    except Exception as error:  # onnxsim and onnx raise their own, changing types
        raise StageFailed(f"the exported graph did not pass onnxsim and onnx: {error}") from error
    return simplified


def strip(model: onnx.ModelProto) -> None:
    """Name this package as the producer, and drop what tells where and how a graph was made."""
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
    """Nodes by operator, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def tensor_specs(values: Any) -> tuple[TensorSpec, ...]:
    """Names, dtypes and shapes of graph inputs or outputs (`model.graph.input` and `.output`)."""
    specs = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
        specs.append(TensorSpec(name=value.name, dtype=dtype, shape=shape))
    return tuple(specs)
