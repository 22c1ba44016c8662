"""Which nodes of a graph must stay in FP32 when the others compute in FP16."""

from collections.abc import Collection, Mapping

import numpy as np
from onnx import NodeProto, numpy_helper

from .graph_tensors import LAYERS, GraphTensors, subgraphs
from .kept_nodes import KeptNodes, nodes_to_keep

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
    """The nodes that stay in FP32 when the others compute in FP16.

    A layer is a node that multiplies with weights. The nodes before the first layer normalise
    pixels or make region masks and averaging matrices: they are cheap and made of sizes. The nodes
    after the last layer turn logits into scores, boxes and class maps.

    asked, searched: see `nodes_to_keep`.
    ranges: the largest absolute value of each tensor, as measured.
    data_max: nodes that take or give a value beyond it stay.
    """
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
        if any(_exceeds(graph, name) for name in node.input):
            return "weights beyond FP16"
        names = filter(graph.is_float, (*node.input, *node.output))
        if any((ranges or {}).get(name, 0) > data_max for name in names):
            return f"values beyond {data_max:g}"
        return None

    return nodes_to_keep(graph, reason_of, asked, searched)


def _exceeds(graph: GraphTensors, name: str) -> bool:
    weight = graph.weights.get(name)
    if weight is None or not graph.is_float(name):
        return False
    return bool((np.abs(numpy_helper.to_array(weight)) > FP16_MAX).any())


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
