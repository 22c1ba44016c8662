"""Questions about an ONNX graph: element types, weights, who makes and who takes a tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})

#: Operators that multiply with weights, and so make up most of a network's work.
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class GraphTensors:
    """What is known about the tensors of a graph's top level (subgraphs are part of their node).

    values: inputs, outputs and what is between, with types and shapes as far as they are known.
    types: ONNX element type by tensor name; initializers and graph inputs included.
    weights: initializers by name.
    takers: nodes by a tensor that they take, directly or inside a subgraph.
    """

    nodes: tuple[NodeProto, ...]
    values: tuple[ValueInfoProto, ...]
    types: dict[str, int]
    weights: dict[str, TensorProto]
    makers: dict[str, NodeProto] = field(default_factory=dict)
    takers: dict[str, list[NodeProto]] = field(default_factory=lambda: defaultdict(list))

    def is_float(self, name: str) -> bool:
        return self.types.get(name) in FLOATS

    def computes(self, node: NodeProto) -> bool:
        """Whether a node takes or gives floating-point values."""
        return any(self.is_float(name) for name in (*taken(node), *node.output))

    def is_layer(self, node: NodeProto) -> bool:
        """Whether a node multiplies with weights of the file."""
        return node.op_type in LAYERS and any(name in self.weights for name in node.input[1:2])


def graph_tensors(model: ModelProto) -> GraphTensors:
    """Look through a model; what it does not say about its types is inferred."""
    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in values
        if value.type.HasField("tensor_type")
    }
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    known = GraphTensors(
        nodes=tuple(model.graph.node),
        values=values,
        types=types,
        weights={weight.name: weight for weight in model.graph.initializer},
    )
    for node in known.nodes:
        known.makers.update((name, node) for name in node.output)
        for name in taken(node):
            known.takers[name].append(node)
    return known


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Bodies of a loop or branches of a condition."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


def taken(node: NodeProto) -> set[str]:
    """Tensors that a node takes, those that its subgraphs capture included."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= {name for inner in graph.node for name in taken(inner)} - own_names(graph)
    return names


def own_names(graph: GraphProto) -> set[str]:
    """Tensors that a graph has of its own, not from the one around it."""
    names = {value.name for value in graph.input}
    names |= {weight.name for weight in graph.initializer}
    return names | {name for node in graph.node for name in node.output}


def sort_nodes(graph: GraphProto) -> None:
    """Order the nodes so that each comes after those whose results it takes."""
    made = {name for node in graph.node for name in node.output}
    ready: set[str] = set()
    waiting = [(node, taken(node) & made) for node in graph.node]
    ordered: list[NodeProto] = []
    while waiting:
        later = []
        for node, needs in waiting:
            if needs <= ready:
                ordered.append(node)
                ready.update(node.output)
            else:
                later.append((node, needs))
        if len(later) == len(waiting):
            raise ValueError(f"the graph has a cycle at node {later[0][0].name}")
        waiting = later
    copies = [NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)
