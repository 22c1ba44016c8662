"""Which nodes of a graph compute in half precision, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import NodeProto, numpy_helper

from ..errors import BadInput
from .graph_tensors import LAYERS, GraphTensors, subgraphs

#: Largest absolute value that a node may take or give in FP16 by default, which is AutoCast's:
#: beyond it the steps between values are 0.5 and more.
DEFAULT_LARGEST = 512.0

#: Largest finite value in FP16.
HALF_MAX = float(np.finfo(np.float16).max)

#: Operators that stay in FP32 whatever their values.
_ALWAYS = {
    "LayerNormalization": "normalisation: means of squares",
    "InstanceNormalization": "normalisation: means of squares",
    "GroupNormalization": "normalisation: means of squares",
    "RoiAlign": "box coordinates: FP16 steps are a pixel above 1024",
    "NonMaxSuppression": "box coordinates: FP16 steps are a pixel above 1024",
    "TopK": "order of scores",
    "Loop": "loop of NMS",
    "Scan": "loop of NMS",
    "If": "branches",
    "Range": "not defined for FP16",
}

#: How many of an operator's inputs, from the first, go on as features; of others, all.
_FEATURES = {"RoiAlign": 1, "TopK": 0, "NonMaxSuppression": 0, "Loop": 0, "Scan": 0, "If": 0}

ASKED = "asked for with --keep-fp32"
SEARCHED = "found by a search"
BEFORE_LAYERS = "pixels and tables before the first layer"
AFTER_LAYERS = "scores, boxes, classes after the last layer"
WEIGHTS = "weights beyond FP16"


def half_plan(
    graph: GraphTensors,
    *,
    asked: Iterable[str] = (),
    searched: Iterable[str] = (),
    ranges: Mapping[str, float] | None = None,
    largest: float = DEFAULT_LARGEST,
) -> dict[str, str]:
    """Nodes that stay in FP32 with the reason, by name; only nodes with floating-point values.

    Layers are what multiplies with weights. Before the first are the normalisation of pixels,
    region masks and averaging matrices, cheap and made of sizes; after the last is what turns
    logits into scores, boxes and class maps.

    Args:
        asked, searched: names of nodes, or operators, to keep.
        ranges: largest absolute value by tensor, as measured; nodes that touch one beyond
            `largest` stay.

    Raises:
        BadInput: a name in `asked` is neither a node nor an operator of this graph.
    """
    asked, searched = set(asked), set(searched)
    check_names(graph, asked)
    after_first = _downstream_of_layers(graph)
    before_last = _upstream_of_layers(graph)
    kept: dict[str, str] = {}
    for node in graph.nodes:
        if not graph.computes(node):
            continue
        names = {node.name, node.op_type}
        beyond = _beyond(graph, node, ranges or {}, largest)
        if names & asked:
            kept[node.name] = ASKED
        elif names & searched:
            kept[node.name] = SEARCHED
        elif node.op_type in _ALWAYS or next(subgraphs(node), None) is not None:
            kept[node.name] = _ALWAYS.get(node.op_type, "subgraphs")
        elif node.op_type == "Shape":  # costs nothing; a cast before it would
            if _maker(graph, node) in kept or _maker(graph, node) is None:
                kept[node.name] = "size of a tensor that is FP32"
        elif node.name not in after_first:
            kept[node.name] = BEFORE_LAYERS
        elif node.name not in before_last:
            kept[node.name] = AFTER_LAYERS
        elif any(_exceeds(graph, name) for name in node.input):
            kept[node.name] = WEIGHTS
        elif beyond:
            kept[node.name] = f"values beyond {largest:g}"
    return kept


def half_nodes(graph: GraphTensors, kept: Mapping[str, str]) -> list[str]:
    """Nodes that compute in FP16 under a plan, in the order of the graph."""
    return [n.name for n in graph.nodes if graph.computes(n) and n.name not in kept]


def check_names(graph: GraphTensors, names: set[str]) -> None:
    """Raises BadInput for a name that is neither a node nor an operator of the graph."""
    known = {name for node in graph.nodes for name in (node.name, node.op_type)}
    for name in sorted(names - known):
        import difflib

        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise BadInput(f"--keep-fp32 {name!r} is neither a node nor an operator of the graph{hint}")


def _maker(graph: GraphTensors, node: NodeProto) -> str | None:
    maker = graph.makers.get(node.input[0])
    return maker.name if maker else None


def _beyond(
    graph: GraphTensors, node: NodeProto, ranges: Mapping[str, float], largest: float
) -> bool:
    return any(
        ranges.get(name, 0) > largest
        for name in (*node.input, *node.output)
        if graph.is_float(name)
    )


def _exceeds(graph: GraphTensors, name: str) -> bool:
    weight = graph.weights.get(name)
    if weight is None or not graph.is_float(name):
        return False
    return bool((np.abs(numpy_helper.to_array(weight)) > HALF_MAX).any())


def _downstream_of_layers(graph: GraphTensors) -> set[str]:
    """Layers, and nodes that take what a layer made, directly or through others. What is made of
    its shape alone is not."""
    reached: set[str] = set()
    made: set[str] = set()
    for node in graph.nodes:  # in topological order
        if graph.is_layer(node) or any(name in made for name in node.input):
            reached.add(node.name)
            made.update(() if node.op_type == "Shape" else node.output)
    return reached


def _upstream_of_layers(graph: GraphTensors) -> set[str]:
    """Layers, and nodes whose values reach one as features, not as boxes or an order."""
    reached: set[str] = set()
    wanted: set[str] = set()
    for node in reversed(graph.nodes):
        layer = node.op_type in LAYERS
        if layer or any(name in wanted and graph.is_float(name) for name in node.output):
            reached.add(node.name)
            features = _FEATURES.get(node.op_type)
            wanted.update(node.input if features is None else node.input[:features])
    return reached
