"""A network as it computes with FP16 tensors, in a graph that any runtime runs in FP32.

onnxruntime's CPU provider computes FP16 nodes in FP32 and drops the roundings between neighbours,
so an FP16 file that overflows on a GPU gives good answers there. Here every tensor that would be
FP16 is rounded to it and back: what is beyond 65504 becomes infinite, as on a GPU that multiplies
in FP16 and accumulates in FP32.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .graph_tensors import GraphTensors, graph_tensors

_TO, _FROM, _ROUNDED = "/to_half", "/from_half", "/half"

#: Inputs that stay FP32 in a node of half precision, by operator: the scales of a Resize.
_FULL_INPUTS = {"Resize": (2,)}


def emulated_half(
    model: ModelProto, half: Collection[str], graph: GraphTensors | None = None
) -> ModelProto:
    """A copy of an FP32 model in which the nodes in `half` take and give values of FP16."""
    graph = graph or graph_tensors(model)
    half = set(half)
    emulated = ModelProto()
    emulated.CopyFrom(model)
    del emulated.graph.node[:]
    del emulated.graph.value_info[:]
    rounding = _Rounding(emulated, graph)
    for original in graph.nodes:
        node = NodeProto()
        node.CopyFrom(original)
        if node.name not in half:
            emulated.graph.node.append(node)
            continue
        kept = _FULL_INPUTS.get(node.op_type, ())
        for i, name in enumerate(node.input):
            if i not in kept and graph.types.get(name) == TensorProto.FLOAT:
                node.input[i] = rounding.taken(name)
        given = [(i, n) for i, n in enumerate(node.output) if graph.is_float(n)]
        for i, name in given:
            node.output[i] = f"{name}/unrounded"
        emulated.graph.node.append(node)
        for _, name in given:
            rounding.give(f"{name}/unrounded", name, original.name)
    return emulated


def rounded_node(cast: str) -> str:
    """The node whose result a Cast of `emulated_half` rounds, from the name of the Cast."""
    return cast.removesuffix(_FROM).removesuffix(_TO)


def source_tensor(name: str) -> str:
    """The tensor of the FP32 model that a tensor of an emulated one stands for."""
    return name.removesuffix(_ROUNDED)


class _Rounding:
    """Adds the nodes that round, and knows what is rounded already."""

    def __init__(self, model: ModelProto, graph: GraphTensors) -> None:
        self._model = model
        self._graph = graph
        self._rounded: dict[str, str] = {}

    def taken(self, name: str) -> str:
        """The rounded form of a tensor that a node of half precision takes."""
        if name not in self._rounded:
            rounded = name + _ROUNDED
            if weight := self._graph.weights.get(name):
                with np.errstate(over="ignore"):
                    values = numpy_helper.to_array(weight).astype(np.float16).astype(np.float32)
                self._model.graph.initializer.append(numpy_helper.from_array(values, rounded))
                self._rounded[name] = rounded
            else:
                maker = self._graph.makers.get(name)
                self.give(name, rounded, maker.name if maker else name)
                self._rounded[name] = rounded
        return self._rounded[name]

    def give(self, source: str, target: str, node: str) -> None:
        """Round `source` into `target`."""
        middle = f"{target}/fp16"
        self._model.graph.node.extend(
            [
                helper.make_node(
                    "Cast", [source], [middle], name=node + _TO, to=TensorProto.FLOAT16
                ),
                helper.make_node(
                    "Cast", [middle], [target], name=node + _FROM, to=TensorProto.FLOAT
                ),
            ]
        )
        self._rounded[target] = target
