"""An FP32 ONNX file to one of mixed precision, with NVIDIA ModelOpt's AutoCast."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from ..errors import MissingDependency, StageFailed
from .graph_tensors import graph_tensors, taken
from .loops import cut_loops, join_loops
from .quiet import quiet
from .to_onnx import MAX_IR_VERSION, strip

#: Nodes by operator, then by the precision they are in.
Census = dict[str, dict[str, int]]

_FLOAT_NAMES: Mapping[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.DOUBLE: "fp64",
}
_OTHER = "other"


def half_from_float(model: ModelProto, kept: Collection[str]) -> ModelProto:
    """Convert every node but those named in `kept`, and casts between the two.

    Inputs and outputs keep their types. AutoCast measures no ranges here: what it would keep for
    them is in `kept` already, found without holding the tensors of all images.

    Raises:
        MissingDependency: ModelOpt, or a package it needs, is not installed.
        StageFailed: AutoCast or the ONNX checker refuses the graph.
    """
    autocast = _autocast()
    source, cut = cut_loops(model)
    kept = {*kept, *cut.holders.values()}
    initializers_from_constants(source.graph)
    with tempfile.TemporaryDirectory() as folder, quiet() as said:
        file = Path(folder) / "source.onnx"
        onnx.save_model(source, file)
        try:
            converted: ModelProto = autocast(
                str(file),
                low_precision_type="fp16",
                nodes_to_exclude=[_any_of(kept)] if kept else [],
                data_max=math.inf,
                keep_io_types=True,
                providers=["cpu"],
            )
        except Exception as error:  # AutoCast raises its own, changing types
            last = said.getvalue().strip().splitlines()[-1:]
            raise StageFailed(
                f"AutoCast could not convert the graph: {error}. {' '.join(last)}"
            ) from error
    del converted.graph.value_info[:]  # some of its shapes are wrong, and nothing needs them
    join_loops(converted, cut, model.graph.initializer)
    converted.ir_version = min(converted.ir_version, MAX_IR_VERSION)
    strip(converted)
    try:
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:
        raise StageFailed(f"AutoCast made a graph that onnx refuses: {error}") from error
    return converted


def initializers_from_constants(graph: GraphProto) -> None:
    """Make every Constant node an initializer: those AutoCast converts to the precision of
    whoever takes them."""
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


def census(model: ModelProto) -> Census:
    """Nodes of the top level by operator and precision, most frequent operator first.

    A node's precision is that of the values it gives, or takes where it gives none; `other`: it
    handles no floating-point values. A Cast has the precision it casts to.
    """
    graph = graph_tensors(model)
    counts: Census = {}
    for node in graph.nodes:
        names = [*node.output, *taken(node)]
        found = [_FLOAT_NAMES[graph.types[n]] for n in names if graph.is_float(n)]
        precision = found[0] if found and node.op_type != "Shape" else _OTHER
        row = counts.setdefault(node.op_type, {})
        row[precision] = row.get(precision, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -sum(item[1].values())))


def _any_of(names: Collection[str]) -> str:
    """One pattern for all names: AutoCast matches each node with each of its patterns."""
    return "(?:" + "|".join(map(re.escape, sorted(names))) + ")$"


def _autocast() -> Any:
    try:
        with quiet():
            from modelopt.onnx.autocast import convert_to_mixed_precision
    except ImportError as error:
        raise MissingDependency(
            f"{error.name or 'nvidia-modelopt'} (for FP16)", "convert"
        ) from None
    return convert_to_mixed_precision
