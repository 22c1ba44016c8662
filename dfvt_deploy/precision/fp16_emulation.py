"""A graph that computes in FP32, on any runtime, what a network computes with FP16 tensors.

onnxruntime's CPU provider computes FP16 nodes in FP32 and leaves out the roundings between
neighbours, so an FP16 file that overflows on a GPU gives good answers there. The emulated graph
rounds every tensor that would be FP16 to FP16 and back: values beyond 65504 become infinite, as on
a GPU that multiplies in FP16 and accumulates in FP32.
"""

from collections.abc import Collection

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .graph_tensors import GraphTensors, graph_tensors

#: Inputs that stay FP32 in an FP16 node, by operator: the scales of a Resize.
_FULL_INPUTS = {"Resize": (2,)}


def emulate_fp16(
    model: ModelProto, fp16_nodes: Collection[str], graph: GraphTensors | None = None
) -> ModelProto:
    """A copy of an FP32 model in which the named nodes take and give values that FP16 has."""
    graph = graph or graph_tensors(model)
    fp16_nodes = set(fp16_nodes)
    emulated = ModelProto()
    emulated.CopyFrom(model)
    del emulated.graph.node[:]
    del emulated.graph.value_info[:]
    rounding = _Rounding(emulated, graph)
    for original in graph.nodes:
        node = NodeProto()
        node.CopyFrom(original)
        if node.name not in fp16_nodes:
            emulated.graph.node.append(node)
            continue
        kept = _FULL_INPUTS.get(node.op_type, ())
        for i, name in enumerate(node.input):
            if i not in kept and graph.types.get(name) == TensorProto.FLOAT:
                node.input[i] = rounding.rounded(name)
        results = [(i, n) for i, n in enumerate(node.output) if graph.is_float(n)]
        for i, name in results:
            node.output[i] = f"{name}/unrounded"
        emulated.graph.node.append(node)
        for _, name in results:
            rounding.add(f"{name}/unrounded", name)
    return emulated


def rounded_tensor(name: str) -> str:
    """The name of the rounded form of a tensor that an FP16 node takes from an FP32 node. The
    results of FP16 nodes are rounded under their own names."""
    return f"{name}/rounded"


class _Rounding:
    """Adds the nodes that round a tensor, once for each tensor."""

    def __init__(self, model: ModelProto, graph: GraphTensors) -> None:
        self._model = model
        self._graph = graph
        self._rounded: dict[str, str] = {}

    def rounded(self, name: str) -> str:
        """The name of a tensor's rounded form."""
        if name not in self._rounded:
            self._rounded[name] = rounded = rounded_tensor(name)
            if weight := self._graph.weights.get(name):
                with np.errstate(over="ignore"):
                    values = numpy_helper.to_array(weight).astype(np.float16).astype(np.float32)
                self._model.graph.initializer.append(numpy_helper.from_array(values, rounded))
            else:
                self.add(name, rounded)
        return self._rounded[name]

    def add(self, source: str, target: str) -> None:
        """Add the two casts that round the tensor `source` into `target`."""
        fp16 = f"{target}/fp16"
        to_fp16 = helper.make_node("Cast", [source], [fp16], to=TensorProto.FLOAT16)
        from_fp16 = helper.make_node("Cast", [fp16], [target], to=TensorProto.FLOAT)
        self._model.graph.node.extend([to_fp16, from_fp16])
        self._rounded[target] = target
