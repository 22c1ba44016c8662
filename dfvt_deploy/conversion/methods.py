"""The two ways down from FP32, behind one interface that `convert` and the search use."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import onnx
from onnx import ModelProto

from ..errors import StageFailed
from ..types import Int8Target, RangeMethod
from .calibration import CalibrationImages, Feed
from .graph_tensors import GraphTensors, graph_tensors
from .half import Census, census, half_from_float
from .half_emulation import emulated_half, rounded_node, source_tensor
from .half_plan import HALF_MAX, half_nodes, half_plan
from .quantisation import activation_ranges, int8_census, int8_from_float, quantisation_plan
from .value_ranges import value_ranges

Plan = Mapping[str, str]


class Method(Protocol):
    """A conversion of one model. A plan says which nodes stay FP32, by name, with the reason."""

    graph: GraphTensors

    def calibrate(self, images: CalibrationImages) -> None:
        """Look at images; before everything else."""

    def plan(self, asked: Iterable[str], searched: Iterable[str]) -> Plan:
        """Everything that stays."""

    def least_plan(self, asked: Iterable[str]) -> Plan:
        """What stays in any case: where a search begins."""

    def check_ranges(self, plan: Plan) -> None:
        """Raises StageFailed for values of the calibration that the precision does not hold."""

    def trial(self, plan: Plan) -> ModelProto:
        """A graph that computes in onnxruntime as the file would on its target."""

    def check_trial(self, trial: ModelProto, feeds: Iterable[Feed]) -> None:
        """Raises StageFailed for values inside a trial that are not finite, and are in FP32."""

    def result(self, plan: Plan) -> ModelProto:
        """The graph of the file."""

    def count(self, result: ModelProto, plan: Plan) -> Census:
        """Its nodes by operator and precision."""


class ToHalf:
    """To FP16 with AutoCast.

    Args:
        largest: nodes that touch larger absolute values than this on any image stay FP32.
    """

    #: What a trial is, in words.
    compared = "FP16 rounding against FP32"

    def __init__(self, file: Path, largest: float) -> None:
        self.model = onnx.load(file)
        self.graph = graph_tensors(self.model)
        self.largest = largest
        self._ranges: dict[str, float] = {}

    def calibrate(self, images: CalibrationImages) -> None:
        self._ranges = value_ranges(self.model, images)

    def plan(self, asked: Iterable[str], searched: Iterable[str]) -> Plan:
        return half_plan(
            self.graph,
            asked=asked,
            searched=searched,
            ranges=self._ranges,
            largest=self.largest,
        )

    def least_plan(self, asked: Iterable[str]) -> Plan:
        return half_plan(self.graph, asked=asked)

    def trial(self, plan: Plan) -> ModelProto:
        return emulated_half(self.model, half_nodes(self.graph, plan), self.graph)

    def check_ranges(self, plan: Plan) -> None:
        half = set(half_nodes(self.graph, plan))
        for node in self.graph.nodes:
            for name in (*node.input, *node.output) if node.name in half else ():
                value = self._ranges.get(name, 0)
                if HALF_MAX < value < math.inf:
                    maker = self.graph.makers[name].name
                    what = "gives" if maker == node.name else f"takes from {maker}"
                    raise _overflow(f"{node.name} ({node.op_type}) {what} {value:.4g}")

    def check_trial(self, trial: ModelProto, feeds: Iterable[Feed]) -> None:
        found = value_ranges(trial, feeds)
        operators = {node.name: node.op_type for node in self.graph.nodes}
        for node in trial.graph.node:
            for name in node.output:
                expected = self._ranges.get(source_tensor(name), math.inf)
                if math.isfinite(expected) and not math.isfinite(found.get(name, 0)):
                    maker = rounded_node(node.name)
                    operator = operators.get(maker, "")
                    raise _overflow(f"{maker} ({operator}) gives infinity or NaN")

    def result(self, plan: Plan) -> ModelProto:
        return half_from_float(self.model, plan)

    def count(self, result: ModelProto, plan: Plan) -> Census:
        return census(result)


class ToInt8:
    """To INT8 with onnxruntime's static quantisation."""

    compared = "INT8 in onnxruntime against FP32"

    def __init__(self, file: Path, method: RangeMethod, target: Int8Target) -> None:
        self.file = file
        self.graph = graph_tensors(onnx.load(file))
        self.method = method
        self.target = target
        self._ranges: Any = None

    def calibrate(self, images: CalibrationImages) -> None:
        self._ranges = activation_ranges(self.file, images, self.method)

    def plan(self, asked: Iterable[str], searched: Iterable[str]) -> Plan:
        return quantisation_plan(self.graph, asked=asked, searched=searched)

    def least_plan(self, asked: Iterable[str]) -> Plan:
        return self.plan(asked, ())

    def trial(self, plan: Plan) -> ModelProto:
        return self.result(plan)

    def check_ranges(self, plan: Plan) -> None:
        """INT8 saturates, so nothing overflows."""

    def check_trial(self, trial: ModelProto, feeds: Iterable[Feed]) -> None:
        """See `check_ranges`."""

    def result(self, plan: Plan) -> ModelProto:
        return int8_from_float(self.file, self._ranges, self._quantised(plan), self.target)

    def count(self, result: ModelProto, plan: Plan) -> Census:
        return int8_census(result, self._quantised(plan))

    def _quantised(self, plan: Plan) -> Collection[str]:
        return set(half_nodes(self.graph, plan))


def _overflow(what: str) -> StageFailed:
    return StageFailed(
        f"in FP16 node {what}, the largest number is {HALF_MAX:.0f}; keep that node and those that "
        "take its result with --keep-fp32, find them with --search nodes, or lower --largest"
    )
