"""PyTorch to ONNX, simplified and checked."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from ..errors import BadInput, StageFailed
from ..onnx_model import MAX_IR_VERSION, strip
from ..quiet import quiet
from ..tasks.dense import SIZE_MULTIPLE
from .options import DEFAULT_OPSET, MAX_OPSET, MIN_OPSET

#: Opsets of torch's older exporter, which is used for these.
_TORCHSCRIPT_OPSETS = range(MIN_OPSET, 21)

#: Largest symbolic side in its multiples; torch.export needs a bound.
_MAX_STEPS = 2048


@dataclass(frozen=True)
class ExportableGraph:
    """A module with example inputs by name, of a batch larger than 1, since torch.export fixes a
    batch of 1. Symbolic dimensions of inputs and outputs are named by axis; `height` and `width`
    are multiples of 32. TorchScript compiles `loops`, which dynamo would unroll."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    dynamic_outputs: Mapping[str, Mapping[int, str]]
    loops: bool = False


def onnx_from_graph(graph: ExportableGraph, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Export a module with torch.onnx, unsimplified.

    Both of torch's exporters end in the same graph once simplified; the TorchScript one takes a
    tenth of the time and reaches down to opset 17, the dynamo one goes beyond opset 20
    (docs/design.md has the figures). Raises BadInput where the graph cannot be written in the
    opset, StageFailed where torch cannot export it.
    """
    check_opset(opset, graph.loops)
    dynamo = opset not in _TORCHSCRIPT_OPSETS
    try:
        with quiet(), torch.no_grad():
            model = _with_dynamo(graph, opset) if dynamo else _with_torchscript(graph, opset)
    except Exception as error:  # The exporters' exceptions have no common base.
        raise StageFailed(f"torch.onnx could not export at opset {opset}: {error}") from error
    found = next(entry.version for entry in model.opset_import if not entry.domain)
    if found != opset:  # dynamo keeps a newer opset where it cannot convert, without an error
        raise StageFailed(
            f"the exporter wrote opset {found} where {opset} was asked for; use --opset {found}"
        )
    return model


def check_opset(opset: int, loops: bool) -> None:
    """Raise BadInput for an opset in which a graph, with loops or without, cannot be written."""
    opsets = _TORCHSCRIPT_OPSETS if loops else range(MIN_OPSET, MAX_OPSET + 1)
    if opset not in opsets:
        raise BadInput(f"opset {opset} is outside {opsets[0]}..{opsets[-1]} for this model")


def _with_dynamo(graph: ExportableGraph, opset: int) -> onnx.ModelProto:
    names = {name for axes in graph.dynamic.values() for name in axes.values()}
    dims = {
        name: SIZE_MULTIPLE * torch.export.Dim(f"{name}_steps", min=1, max=_MAX_STEPS)
        if name in ("height", "width")
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
    for value in model.graph.input:  # The exporter wrote `32*height_steps`.
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


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold, fuse and infer shapes with onnxsim, check with ONNX, and strip the metadata. Raises
    StageFailed where onnxsim or the ONNX checker refuses the graph."""
    import onnxsim

    try:
        simplified, _ = onnxsim.simplify(model)
        simplified = onnx.shape_inference.infer_shapes(
            simplified, check_type=True, strict_mode=True, data_prop=True
        )
        simplified.ir_version = min(simplified.ir_version, MAX_IR_VERSION)
        strip(simplified)
        onnx.checker.check_model(simplified, full_check=True)
    except Exception as error:  # The exceptions of onnxsim and onnx have no common base.
        raise StageFailed(f"the exported graph did not pass onnxsim and onnx: {error}") from error
    return simplified
