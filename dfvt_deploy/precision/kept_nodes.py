"""The nodes of a graph that a conversion leaves in FP32, each with the reason."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

from onnx import NodeProto

from ..errors import BadInput
from ..text_files import near
from .graph_tensors import GraphTensors

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
    """The nodes that stay in FP32.

    reason_of: why a node stays, given the kept nodes before it in the graph's order; None for a
        node that is converted.
    asked, searched: names of nodes, or operators, that stay in any case. Raises BadInput where one
        that is asked for is not in the graph.
    """
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
