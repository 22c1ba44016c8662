"""The nodes of a graph that a conversion leaves in FP32, each with the reason, and which those are
when the others compute in FP16."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import numpy as np
from onnx import NodeProto, numpy_helper

from ..errors import BadInput
from ..text_files import near
from .graph_tensors import LAYERS, GraphTensors, subgraphs

#: Why a node stays in FP32, by the node's name. Only nodes with floating-point values are in it.
KeptNodes: TypeAlias = Mapping[str, str]

_ASKED = "asked for with --keep-fp32"
SEARCHED = "found by a search"


def nodes_to_keep(
    graph: GraphTensors,
    reason_of: Callable[[NodeProto, KeptNodes], str | None],
    asked: Collection[str],
    searched: Collection[str],
) -> dict[str, str]:
    """The nodes that stay in FP32: those that `asked` and `searched` name by node or operator, and
    those for which `reason_of` has a reason, given the kept nodes before it in the graph's order.
    Raises BadInput where a name that is asked for is not in the graph."""
    known = {name for node in graph.nodes for name in (node.name, node.op_type)}
    for name in sorted(set(asked) - known):
        problem = "is neither a node nor an operator of the graph"
        raise BadInput(f"--keep-fp32 {name!r} {problem}{near(name, known)}")
    kept: dict[str, str] = {}
    for node in graph.nodes:
        if not graph.computes(node):
            continue
        if node.name in asked or node.op_type in asked:
            kept[node.name] = _ASKED
        elif node.name in searched or node.op_type in searched:
            kept[node.name] = SEARCHED
        elif reason := reason_of(node, kept):
            kept[node.name] = reason
    return kept


def converted_nodes(graph: GraphTensors, kept: KeptNodes) -> list[str]:
    """Names of the nodes that compute in the lower precision, in the graph's order."""
    return [n.name for n in graph.nodes if graph.computes(n) and n.name not in kept]


def reasons(graph: GraphTensors, kept: KeptNodes) -> dict[str, dict[str, int]]:
    """Numbers of kept nodes by reason, then by operator, the most frequent first."""
    counted: dict[str, Counter[str]] = {}
    for node in graph.nodes:
        if node.name in kept and node.op_type != "Constant":  # Constants become initializers
            counted.setdefault(kept[node.name], Counter())[node.op_type] += 1
    return {
        reason: dict(row.most_common())
        for reason, row in sorted(counted.items(), key=lambda item: -item[1].total())
    }


#: Largest finite value in FP16.
FP16_MAX = float(np.finfo(np.float16).max)

#: Operators that stay in FP32 whatever their values.
_ALWAYS = {
    "LayerNormalization": "normalisation: means of squares",
    "InstanceNormalization": "normalisation: means of squares",
    "GroupNormalization": "normalisation: means of squares",
    "RoiAlign": "box coordinates: FP16 steps are a pixel above 1024",
    "TopK": "order of scores",
    "Loop": "loop of NMS",
    "Range": "not defined for FP16",
}

#: How many of an operator's inputs, from the first, reach its outputs as features. All inputs of
#: operators that are not listed do.
_FEATURES = {"RoiAlign": 1, "TopK": 0, "Loop": 0}

_BEFORE_LAYERS = "pixels and tables before the first layer"
_AFTER_LAYERS = "scores, boxes, classes after the last layer"


def kept_by_fp16(
    graph: GraphTensors,
    asked: Collection[str] = (),
    searched: Collection[str] = (),
    *,
    ranges: Mapping[str, float] | None = None,
    data_max: float = np.inf,
) -> KeptNodes:
    """The nodes that stay in FP32 when the others compute in FP16, beside those of `nodes_to_keep`:
    also those that take or give a value beyond `data_max`, by the measured `ranges`, the largest
    absolute value of each tensor. A layer is a node that multiplies with weights. The nodes before
    the first layer normalise pixels or make region masks and averaging matrices: they are cheap and
    made of sizes. The nodes after the last layer turn logits into scores, boxes and class maps."""
    after_first = _downstream_of_layers(graph)
    before_last = _upstream_of_layers(graph)

    def reason_of(node: NodeProto, kept: KeptNodes) -> str | None:
        if node.op_type in _ALWAYS or next(subgraphs(node), None) is not None:
            return _ALWAYS.get(node.op_type, "subgraphs")
        if node.op_type == "Shape":  # costs nothing; a cast before it would
            producer = graph.producers.get(node.input[0])
            is_fp32 = producer is None or producer.name in kept
            return "size of a tensor that is FP32" if is_fp32 else None
        if node.name not in after_first:
            return _BEFORE_LAYERS
        if node.name not in before_last:
            return _AFTER_LAYERS
        names = [*filter(graph.is_float, (*node.input, *node.output))]
        weights = (numpy_helper.to_array(graph.weights[n]) for n in names if n in graph.weights)
        if any((np.abs(weight) > FP16_MAX).any() for weight in weights):
            return "weights beyond FP16"
        if any((ranges or {}).get(name, 0) > data_max for name in names):
            return f"values beyond {data_max:g}"
        return None

    return nodes_to_keep(graph, reason_of, asked, searched)


def _downstream_of_layers(graph: GraphTensors) -> set[str]:
    """Names of the layers and of the nodes that a layer's result, not its shape alone, reaches."""
    reached: set[str] = set()
    results: set[str] = set()
    for node in graph.nodes:  # in topological order
        if graph.is_layer(node) or any(name in results for name in node.input):
            reached.add(node.name)
            results.update(() if node.op_type == "Shape" else node.output)
    return reached


def _upstream_of_layers(graph: GraphTensors) -> set[str]:
    """Names of the layers and of the nodes whose results reach one as features."""
    reached: set[str] = set()
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        layer = node.op_type in LAYERS
        if layer or any(name in wanted and graph.is_float(name) for name in node.output):
            reached.add(node.name)
            features = _FEATURES.get(node.op_type)
            wanted.update(node.input if features is None else node.input[:features])
    return reached
