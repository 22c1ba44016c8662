"""Loops taken out of a graph and put back, for tools that do not handle subgraphs well.

In the graph without loops, a loop's results are inputs of the graph. Each tensor that a loop takes
is an input of a Shape node, the tensor's holder, whose result is an output of the graph. A tool
that renames or casts the tensor changes the holder's input, and the loop then takes that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from .graph_tensors import GraphTensors, graph_tensors, own_names, sort_nodes, subgraphs, taken


@dataclass(frozen=True)
class CutLoops:
    """Loops that were taken out.

    results: names of the graph's inputs that stand for the loops' results.
    holders: by the name of a tensor that a loop takes, the name of its holder and of the holder's
        result.
    """

    loops: Sequence[NodeProto]
    results: frozenset[str]
    holders: dict[str, str]


def cut_loops(model: ModelProto) -> tuple[ModelProto, CutLoops]:
    """A copy of the model without the nodes that have subgraphs, and those nodes."""
    graph = graph_tensors(model)
    loops = [node for node in graph.nodes if next(subgraphs(node), None) is not None]
    cut = ModelProto()
    cut.CopyFrom(model)
    rest = [node for node in cut.graph.node if next(subgraphs(node), None) is None]
    del cut.graph.node[:]
    cut.graph.node.extend(rest)
    results = [value for node in loops for value in _results(node, graph)]
    cut.graph.input.extend(results)
    given = {value.name for value in results}
    values = [value for value in cut.graph.value_info if value.name not in given]
    del cut.graph.value_info[:]
    cut.graph.value_info.extend(values)
    wanted = {name for node in loops for name in taken(node)} - set(graph.weights)
    holders = {name: f"{name}/held" for name in sorted(wanted)}
    for name, holder in holders.items():
        cut.graph.node.append(helper.make_node("Shape", [name], [holder], name=holder))
        shape = helper.make_tensor_value_info(holder, TensorProto.INT64, [f"{name}/rank"])
        cut.graph.output.append(shape)
    return cut, CutLoops(loops, frozenset(given), holders)


def join_loops(model: ModelProto, cut: CutLoops, weights: Sequence[TensorProto]) -> None:
    """Put the nodes of `cut_loops` back into the model. A tool may have removed or converted the
    initializers that a loop takes, so the loop gets copies of the original `weights`."""
    for values, cut_names in (
        (model.graph.input, cut.results),
        (model.graph.output, frozenset(cut.holders.values())),
    ):
        kept = [value for value in values if value.name not in cut_names]
        del values[:]
        values.extend(kept)
    holders = {node.name: node for node in model.graph.node}
    names = {name: holders[holder].input[0] for name, holder in cut.holders.items()}
    wanted = {name for loop in cut.loops for name in taken(loop)}
    for weight in weights:
        if weight.name in wanted:
            own = model.graph.initializer.add()
            own.CopyFrom(weight)
            own.name = names[weight.name] = f"{weight.name}/loop"
    held = set(cut.holders.values())
    nodes = [node for node in model.graph.node if node.name not in held]
    for loop in cut.loops:
        node = NodeProto()
        node.CopyFrom(loop)
        _rename(node, names)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    sort_nodes(model.graph)


def _results(node: NodeProto, graph: GraphTensors) -> Iterator[ValueInfoProto]:
    """A node's results with the rank that they have in its body; shape inference does not find
    it."""
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
