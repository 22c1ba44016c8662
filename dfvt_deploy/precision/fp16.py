"""FP32 graphs converted to FP16 with NVIDIA ModelOpt's AutoCast."""

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from ..errors import MissingDependency, StageFailed
from ..onnx_model import MAX_IR_VERSION, strip
from ..quiet import quiet
from .graph_tensors import graph_tensors, taken
from .loops import cut_loops, join_loops

#: Numbers of nodes by operator, then by the precision that the nodes compute in.
OperatorCounts = dict[str, dict[str, int]]

_FLOAT_NAMES: Mapping[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.DOUBLE: "fp64",
}
_OTHER = "other"


def fp16_from_fp32(model: ModelProto, kept: Collection[str], scratch: Path) -> ModelProto:
    """Convert every node but those named in `kept`, with casts between the two; inputs and outputs
    keep their types. `scratch` is a folder for a file that AutoCast reads.

    AutoCast measures no ranges here: the nodes that it would keep for their ranges are in `kept`
    already, found without holding the tensors of all images. Raises MissingDependency where
    ModelOpt, or a package it needs, is not installed, StageFailed where AutoCast or the ONNX
    checker refuses the graph.
    """
    autocast = _autocast()
    source, cut = cut_loops(model)
    kept = {*kept, *cut.holders.values()}
    # One pattern for all, as AutoCast matches each node with each of its patterns.
    pattern = f"(?:{'|'.join(map(re.escape, sorted(kept)))})$"
    initializers_from_constants(source.graph)
    file = scratch / "source.onnx"
    onnx.save_model(source, file)
    with quiet() as printed:
        try:
            converted: ModelProto = autocast(
                str(file),
                low_precision_type="fp16",
                nodes_to_exclude=[pattern] if kept else [],
                data_max=math.inf,
                keep_io_types=True,
                providers=["cpu"],
            )
        except Exception as error:  # AutoCast raises its own, changing types
            last = printed.getvalue().strip().splitlines()[-1:]
            raise StageFailed(
                f"AutoCast could not convert the graph: {error}. {' '.join(last)}"
            ) from error
    join_loops(converted, cut, model.graph.initializer)
    try:
        return finished(converted)
    except Exception as error:  # onnx raises its own and built-in ones
        raise StageFailed(f"AutoCast made a graph that onnx refuses: {error}") from error


def finished(model: ModelProto) -> ModelProto:
    """A converted model as it is written: checked, without names of tools and inferred shapes.
    Raises onnx's own exceptions where it refuses the graph."""
    del model.graph.value_info[:]  # some inferred shapes are wrong, and nothing needs them
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def initializers_from_constants(graph: GraphProto) -> None:
    """Make every Constant node an initializer, which AutoCast converts as its consumers need it."""
    rest = []
    for node in graph.node:
        values = [a.t for a in node.attribute if a.name == "value"]
        if node.op_type == "Constant" and values:
            weight = graph.initializer.add()
            weight.CopyFrom(values[0])
            weight.name = node.output[0]
            continue
        rest.append(node)
    if len(rest) < len(graph.node):
        del graph.node[:]
        graph.node.extend(rest)


def operator_counts(model: ModelProto) -> OperatorCounts:
    """Count the nodes of the top level, the most frequent operator first. A node's precision is
    that of its outputs, or of its inputs where no output is floating-point, or `other` without
    either."""
    graph = graph_tensors(model)
    counts: OperatorCounts = {}
    for node in graph.nodes:
        names = [*node.output, *taken(node)]
        found = [_FLOAT_NAMES[graph.types[n]] for n in names if graph.is_float(n)]
        precision = found[0] if found and node.op_type != "Shape" else _OTHER
        row = counts.setdefault(node.op_type, {})
        row[precision] = row.get(precision, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -sum(item[1].values())))


def _autocast() -> Any:
    try:
        with quiet():
            from modelopt.onnx.autocast import convert_to_mixed_precision
    except ImportError as error:
        raise MissingDependency(
            f"{error.name or 'nvidia-modelopt'} (for FP16)", "convert"
        ) from None
    return convert_to_mixed_precision
