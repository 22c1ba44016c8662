"""An ONNX graph with the types, weights, producers and consumers of its tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from ..errors import ArtifactError
from ..manifest import Manifest
from ..onnx_model import load_onnx

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})

#: Operators that multiply with weights, and so make up most of a network's work.
LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class GraphTensors:
    """A graph's nodes and, by tensor, ONNX types, initializers and the node that makes each."""

    nodes: tuple[NodeProto, ...]
    types: dict[str, int]
    weights: dict[str, TensorProto]
    producers: dict[str, NodeProto]

    def is_float(self, name: str) -> bool:
        return self.types.get(name) in FLOATS

    def float_results(self) -> dict[str, str]:
        """The floating-point results of nodes in order, with the operator that makes each."""
        return {n: node.op_type for node in self.nodes for n in node.output if self.is_float(n)}

    def computes(self, node: NodeProto) -> bool:
        """Whether a node has floating-point inputs or outputs."""
        return any(self.is_float(name) for name in (*taken(node), *node.output))

    def is_layer(self, node: NodeProto) -> bool:
        """Whether a node multiplies with weights of the file."""
        return node.op_type in LAYERS and any(name in self.weights for name in node.input[1:2])


def load_exported(file: Path, manifest: Manifest) -> ModelProto:
    """Read an export's ONNX file; ArtifactError where it is damaged or not that of the manifest."""
    remedy = f"export the model again: {manifest.command}"
    model = load_onnx(file)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker raises its own, shape inference's and built-in ones
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{file} is no valid ONNX model: {reason}; {remedy}") from error
    found = sorted(value.name for value in model.graph.input)
    if found != sorted(spec.name for spec in manifest.inputs):
        raise ArtifactError(
            f"{file} has the inputs {', '.join(found) or 'none'}, its manifest says "
            f"{', '.join(spec.name for spec in manifest.inputs)}; {remedy}"
        )
    return model


def graph_tensors(model: ModelProto) -> GraphTensors:
    """The tensors of a model. Types that the model does not state are inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.HasField("tensor_type")
    }
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    return GraphTensors(
        nodes=tuple(model.graph.node),
        types=types,
        weights={weight.name: weight for weight in model.graph.initializer},
        producers={name: node for node in model.graph.node for name in node.output},
    )


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of a loop, or the branches of a condition."""
    return (a.g for a in node.attribute if a.type == AttributeProto.GRAPH)


def taken(node: NodeProto) -> set[str]:
    """The tensors that a node takes, with those that its subgraphs take from around them."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= {name for inner in graph.node for name in taken(inner)} - own_names(graph)
    return names


def own_names(graph: GraphProto) -> set[str]:
    """The tensors that a graph defines itself, rather than taking them from the graph around it."""
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
