"""FP32 graphs converted to FP16 with NVIDIA ModelOpt's AutoCast, or made to round as FP16 does.

AutoCast does not handle loops well, so they are taken out of a graph and put back. In the graph
without loops, a loop's results are inputs of the graph. Each tensor that a loop takes is an input
of a Shape node, the tensor's holder, whose result is an output of the graph. AutoCast, which
renames or casts the tensor, changes the holder's input, and the loop then takes that.
"""

import copy
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..errors import StageFailed, optional
from ..onnx_model import MAX_IR_VERSION, strip
from ..quiet import quiet
from .graph_tensors import GraphTensors, graph_tensors, own_names, sort_nodes, subgraphs, taken

#: Numbers of nodes by operator, then by the precision that the nodes compute in.
OperatorCounts = dict[str, dict[str, int]]

_FLOAT_NAMES: Mapping[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.DOUBLE: "fp64",
}


def fp16_from_fp32(model: ModelProto, kept: Collection[str], scratch: Path) -> ModelProto:
    """Convert every node but those named in `kept`, with casts between the two; inputs and outputs
    keep their types. `scratch` is a folder for a file that AutoCast reads. AutoCast measures no
    ranges here: the nodes that it would keep for their ranges are in `kept` already, found without
    holding the tensors of all images. Raises MissingDependency where ModelOpt, or a package it
    needs, is not installed, StageFailed where AutoCast or the ONNX checker refuses the graph."""
    with quiet():
        autocast = optional("modelopt.onnx.autocast").convert_to_mixed_precision
    source, holders, join_loops = cut_loops(model)
    kept = {*kept, *holders}
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
    join_loops(converted)
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
    constants = [node for node in graph.node if node.op_type == "Constant"]
    values = {n.output[0]: a.t for n in constants for a in n.attribute if a.name == "value"}
    for name, value in values.items():
        weight = graph.initializer.add()
        weight.CopyFrom(value)
        weight.name = name
    _keep(graph.node, lambda node: node.output[0] not in values)


def operator_counts(model: ModelProto, quantised: Collection[str] = ()) -> OperatorCounts:
    """Count the nodes of the top level, the most frequent operator first. The precision of the
    nodes named in `quantised` is `int8`; that of others is that of their outputs, or of their
    inputs where no output is floating-point, or `other` without either."""
    graph = graph_tensors(model)
    counts: OperatorCounts = {}
    for node in graph.nodes:
        names = [*node.output, *taken(node)]
        found = [_FLOAT_NAMES[graph.types[n]] for n in names if graph.is_float(n)]
        precision = found[0] if found and node.op_type != "Shape" else "other"
        row = counts.setdefault(node.op_type, {})
        name = "int8" if node.name in quantised else precision
        row[name] = row.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -sum(item[1].values())))


def cut_loops(model: ModelProto) -> tuple[ModelProto, list[str], Callable[[ModelProto], None]]:
    """A copy of the model without the nodes that have subgraphs, the names of the holders in it,
    and a function that puts those nodes back into what a tool made of the copy."""
    graph = graph_tensors(model)
    loops = [node for node in graph.nodes if next(subgraphs(node), None) is not None]
    results = {value.name: value for node in loops for value in _results(node, graph)}
    wanted = {name for node in loops for name in taken(node)}
    holders = {name: f"{name}/held" for name in sorted(wanted - set(graph.weights))}
    cut = copy.deepcopy(model)
    _keep(cut.graph.node, lambda node: next(subgraphs(node), None) is None)
    cut.graph.input.extend(results.values())
    _keep(cut.graph.value_info, lambda value: value.name not in results)
    for name, holder in holders.items():
        cut.graph.node.append(helper.make_node("Shape", [name], [holder], name=holder))
        shape = helper.make_tensor_value_info(holder, TensorProto.INT64, [f"{name}/rank"])
        cut.graph.output.append(shape)

    def join(made: ModelProto) -> None:
        held = {node.name: node for node in made.graph.node if node.name in holders.values()}
        names = {name: held[holder].input[0] for name, holder in holders.items()}
        _keep(made.graph.input, lambda value: value.name not in results)
        _keep(made.graph.output, lambda value: value.name not in held)
        _keep(made.graph.node, lambda node: node.name not in held)
        for name, weight in graph.weights.items():
            if name in wanted:  # a tool may have removed or converted the one in the model
                own = made.graph.initializer.add()
                own.CopyFrom(weight)
                own.name = names[name] = f"{name}/loop"
        for loop in loops:
            node = made.graph.node.add()
            node.CopyFrom(loop)
            _rename(node, names)
        sort_nodes(made.graph)

    return cut, [*holders.values()], join


def _keep(values: Any, wanted: Callable[[Any], bool]) -> None:
    """Leave in a repeated field what is wanted."""
    kept = [value for value in values if wanted(value)]
    del values[:]
    values.extend(kept)


def _results(node: NodeProto, graph: GraphTensors) -> Iterator[onnx.ValueInfoProto]:
    """A node's results with their rank in its body, which shape inference does not find."""
    body = next(subgraphs(node))
    inside, carried = list(body.output), len(body.output)
    if node.op_type == "Loop":  # the body's first result says whether to go on
        inside, carried = inside[1:], len(node.input) - 2
    for i, (name, value) in enumerate(zip(node.output, inside, strict=True)):
        rank = len(value.type.tensor_type.shape.dim) + (i >= carried)
        shape = [f"{name}/{axis}" for axis in range(rank)]
        yield helper.make_tensor_value_info(name, graph.types[name], shape)


def _rename(node: NodeProto, names: dict[str, str]) -> None:
    """Rename the tensors that a node takes, also within its subgraphs."""
    for i, name in enumerate(node.input):
        node.input[i] = names.get(name, name)
    for graph in subgraphs(node):
        hidden = own_names(graph)
        outside = {old: new for old, new in names.items() if old not in hidden}
        for inner in graph.node:
            _rename(inner, outside)


#: Inputs that stay FP32 in an FP16 node, by operator: the scales of a Resize.
_FULL_INPUTS = {"Resize": (2,)}


def emulate_fp16(
    model: ModelProto, fp16_nodes: Collection[str], graph: GraphTensors | None = None
) -> ModelProto:
    """A copy of an FP32 model in which the named nodes take and give values that FP16 has.
    onnxruntime's CPU provider computes FP16 nodes in FP32 and leaves out the roundings between
    neighbours, so an FP16 file that overflows on a GPU gives good answers there. Here every tensor
    that would be FP16 is rounded to FP16 and back: values beyond 65504 become infinite, as on a GPU
    that multiplies in FP16 and accumulates in FP32."""
    graph = graph or graph_tensors(model)
    fp16_nodes = set(fp16_nodes)
    emulated = copy.deepcopy(model)
    del emulated.graph.node[:]
    del emulated.graph.value_info[:]
    forms: dict[str, str] = {}  # names of rounded tensors by the name of the tensor

    def add_casts(source: str, target: str) -> None:
        fp16 = f"{target}/fp16"
        to_fp16 = helper.make_node("Cast", [source], [fp16], to=TensorProto.FLOAT16)
        from_fp16 = helper.make_node("Cast", [fp16], [target], to=TensorProto.FLOAT)
        emulated.graph.node.extend([to_fp16, from_fp16])

    def rounded(name: str) -> str:
        if name not in forms:
            forms[name] = rounded_tensor(name)
            if weight := graph.weights.get(name):
                with np.errstate(over="ignore"):
                    values = numpy_helper.to_array(weight).astype(np.float16).astype(np.float32)
                emulated.graph.initializer.append(numpy_helper.from_array(values, forms[name]))
            else:
                add_casts(name, forms[name])
        return forms[name]

    for node in map(copy.deepcopy, graph.nodes):
        if node.name not in fp16_nodes:
            emulated.graph.node.append(node)
            continue
        kept = _FULL_INPUTS.get(node.op_type, ())
        for i, name in enumerate(node.input):
            if i not in kept and graph.types.get(name) == TensorProto.FLOAT:
                node.input[i] = rounded(name)
        results = [n for n in node.output if graph.is_float(n)]
        node.output[:] = [f"{n}/unrounded" if n in results else n for n in node.output]
        emulated.graph.node.append(node)
        for name in results:
            add_casts(f"{name}/unrounded", name)
            forms[name] = name
    return emulated


def rounded_tensor(name: str) -> str:
    """The name of a tensor's rounded form; results of FP16 nodes are rounded under their own."""
    return f"{name}/rounded"
