"""The conversion to FP16: which nodes stay in FP32, and which values overflow."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper

from ..errors import StageFailed
from ..runners import Tensors
from .calibration import CalibrationImages, value_ranges
from .conversions import Conversion, KeptNodes
from .fp16 import OperatorCounts, emulate_fp16, fp16_from_fp32, operator_counts, rounded_tensor
from .graph_tensors import LAYERS, GraphTensors, subgraphs

#: Largest finite value in FP16.
_FP16_MAX = float(np.finfo(np.float16).max)

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


@dataclass(eq=False)
class Fp16Conversion(Conversion):
    """FP16 with AutoCast; nodes that touch a value beyond `data_max` stay in FP32.

    A layer is a node that multiplies with weights. The nodes before the first layer normalise
    pixels or make region masks and averaging matrices: they are cheap and made of sizes. The nodes
    after the last layer turn logits into scores, boxes and class maps.
    """

    data_max: float
    _ranges: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._after_first = _downstream_of_layers(self.graph)
        self._before_last = _upstream_of_layers(self.graph)

    def calibrate(self, images: CalibrationImages) -> None:
        self._ranges = value_ranges(self.model, images)

    def reason(self, node: NodeProto, kept: KeptNodes, least: bool) -> str | None:
        graph = self.graph
        if node.op_type in _ALWAYS or next(subgraphs(node), None) is not None:
            return _ALWAYS.get(node.op_type, "subgraphs")
        if node.op_type == "Shape":  # costs nothing; a cast before it would
            producer = graph.producers.get(node.input[0])
            is_fp32 = producer is None or producer.name in kept
            return "size of a tensor that is FP32" if is_fp32 else None
        if node.name not in self._after_first:
            return "pixels and tables before the first layer"
        if node.name not in self._before_last:
            return "scores, boxes, classes after the last layer"
        names = [*filter(graph.is_float, (*node.input, *node.output))]
        weights = (numpy_helper.to_array(graph.weights[n]) for n in names if n in graph.weights)
        if any((np.abs(weight) > _FP16_MAX).any() for weight in weights):
            return "weights beyond FP16"
        if not least and any(self._ranges.get(name, 0) > self.data_max for name in names):
            return f"values beyond {self.data_max:g}"
        return None

    def overflow(self, kept: KeptNodes) -> StageFailed | None:
        for node, name in self._fp16_tensors(kept):
            value = self._ranges.get(name, 0)
            if _FP16_MAX < value < math.inf:
                producer = self.graph.producers[name].name
                verb = "gives" if producer == node.name else f"takes from {producer}"
                return _overflow(f"{node.name} ({node.op_type}) {verb} {value:.4g}")
        return None

    def trial(self, kept: KeptNodes) -> ModelProto:
        return emulate_fp16(self.model, self.converted(kept), self.graph)

    def overflow_inside(
        self, trial: ModelProto, kept: KeptNodes, feeds: Iterable[Tensors]
    ) -> StageFailed | None:
        """The error about the first node of a trial whose values are finite in FP32 alone."""
        found = value_ranges(trial, feeds)
        for node, name in self._fp16_tensors(kept):
            rounded = name if name in node.output else rounded_tensor(name)
            expected = self._ranges.get(name, math.inf)
            if math.isfinite(expected) and not math.isfinite(found.get(rounded, 0)):
                producer = self.graph.producers[name]
                return _overflow(f"{producer.name} ({producer.op_type}) gives infinity or NaN")
        return None

    def _fp16_tensors(self, kept: KeptNodes) -> Iterator[tuple[NodeProto, str]]:
        """The nodes that compute in FP16, each with every tensor that it takes or gives."""
        converted = set(self.converted(kept))
        for node in self.graph.nodes:
            for name in (*node.input, *node.output) if node.name in converted else ():
                yield node, name

    def result(self, kept: KeptNodes) -> ModelProto:
        return fp16_from_fp32(self.model, kept, self.scratch)

    def count(self, result: ModelProto, kept: KeptNodes) -> OperatorCounts:
        return operator_counts(result)  # by the types that AutoCast gave the tensors


def _overflow(what: str) -> StageFailed:
    return StageFailed(
        f"in FP16 node {what}, the largest number is {_FP16_MAX:.0f}; keep that node and those "
        "that take its result with --keep-fp32, find them with --search nodes, or lower --data-max"
    )


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
