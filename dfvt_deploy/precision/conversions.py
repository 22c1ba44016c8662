"""The two conversions, FP16 and INT8, behind one interface that `convert` and the search use."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from onnx import ModelProto

from ..errors import StageFailed
from ..types import Int8Target, RangeMethod
from .calibration import CalibrationImages, Feed, value_ranges
from .fp16 import OperatorCounts, emulate_fp16, fp16_from_fp32, operator_counts, rounded_tensor
from .graph_tensors import graph_tensors
from .int8 import activation_ranges, int8_from_fp32, int8_operator_counts, kept_by_int8
from .kept_nodes import FP16_MAX, KeptNodes, converted_nodes, kept_by_fp16


@dataclass(eq=False)
class Conversion(ABC):
    """A conversion of one FP32 model to a lower precision, with a folder for temporary files. The
    file is compared with FP32 in `runtime`."""

    runtime: ClassVar[str] = "onnxruntime"
    model: ModelProto
    scratch: Path

    def __post_init__(self) -> None:
        self.graph = graph_tensors(self.model)

    @abstractmethod
    def calibrate(self, images: CalibrationImages) -> None:
        """Measure ranges on images. Only `least_kept` may be called before."""

    @abstractmethod
    def kept(self, asked: Collection[str], searched: Collection[str]) -> KeptNodes:
        """All nodes that stay in FP32. `asked` and `searched` are names of nodes or operators."""

    def least_kept(self, asked: Collection[str]) -> KeptNodes:
        """The nodes that stay in FP32 in any case; a search begins with them."""
        return self.kept(asked, ())

    def overflow(self, kept: KeptNodes) -> StageFailed | None:
        """The error about the first node whose measured values the precision does not hold."""
        return None

    def trial(self, kept: KeptNodes) -> ModelProto:
        """A graph that computes in onnxruntime what the file will compute on its target."""
        return self.result(kept)

    def overflow_inside(
        self, trial: ModelProto, kept: KeptNodes, feeds: Iterable[Feed]
    ) -> StageFailed | None:
        """The error about the first node of a trial whose values are finite in FP32 alone."""
        return None

    @abstractmethod
    def result(self, kept: KeptNodes) -> ModelProto:
        """The graph of the file."""

    @abstractmethod
    def count(self, result: ModelProto, kept: KeptNodes) -> OperatorCounts:
        """The numbers of the file's nodes by operator and precision."""


@dataclass(eq=False)
class Fp16Conversion(Conversion):
    """FP16 with AutoCast; nodes that touch a value beyond `data_max` stay in FP32."""

    data_max: float
    _ranges: dict[str, float] = field(default_factory=dict, init=False)

    def calibrate(self, images: CalibrationImages) -> None:
        self._ranges = value_ranges(self.model, images)

    def kept(self, asked: Collection[str], searched: Collection[str]) -> KeptNodes:
        return kept_by_fp16(
            self.graph, asked, searched, ranges=self._ranges, data_max=self.data_max
        )

    def least_kept(self, asked: Collection[str]) -> KeptNodes:
        return kept_by_fp16(self.graph, asked)

    def trial(self, kept: KeptNodes) -> ModelProto:
        return emulate_fp16(self.model, converted_nodes(self.graph, kept), self.graph)

    def overflow(self, kept: KeptNodes) -> StageFailed | None:
        fp16_nodes = set(converted_nodes(self.graph, kept))
        for node in self.graph.nodes:
            for name in (*node.input, *node.output) if node.name in fp16_nodes else ():
                value = self._ranges.get(name, 0)
                if FP16_MAX < value < math.inf:
                    producer = self.graph.producers[name].name
                    verb = "gives" if producer == node.name else f"takes from {producer}"
                    return _overflow(f"{node.name} ({node.op_type}) {verb} {value:.4g}")
        return None

    def overflow_inside(
        self, trial: ModelProto, kept: KeptNodes, feeds: Iterable[Feed]
    ) -> StageFailed | None:
        found = value_ranges(trial, feeds)
        fp16_nodes = set(converted_nodes(self.graph, kept))
        for node in self.graph.nodes:
            if node.name not in fp16_nodes:
                continue
            inputs = {name: rounded_tensor(name) for name in node.input}
            for name, rounded in (inputs | {name: name for name in node.output}).items():
                expected = self._ranges.get(name, math.inf)
                if math.isfinite(expected) and not math.isfinite(found.get(rounded, 0)):
                    producer = self.graph.producers[name]
                    return _overflow(f"{producer.name} ({producer.op_type}) gives infinity or NaN")
        return None

    def result(self, kept: KeptNodes) -> ModelProto:
        return fp16_from_fp32(self.model, kept, self.scratch)

    def count(self, result: ModelProto, kept: KeptNodes) -> OperatorCounts:
        return operator_counts(result)


@dataclass(eq=False)
class Int8Conversion(Conversion):
    """INT8 for what `target` runs, with ranges by `method`; it saturates and never overflows.
    `seven`: weights of 7 bits."""

    method: RangeMethod
    target: Int8Target
    seven: bool
    _ranges: Any = field(default=None, init=False)

    def calibrate(self, images: CalibrationImages) -> None:
        self._ranges = activation_ranges(self.model, images, self.method, self.scratch)

    def kept(self, asked: Collection[str], searched: Collection[str]) -> KeptNodes:
        return kept_by_int8(self.graph, asked, searched)

    def result(self, kept: KeptNodes) -> ModelProto:
        quantised = converted_nodes(self.graph, kept)
        return int8_from_fp32(self.model, self._ranges, quantised, self.target, self.seven)

    def count(self, result: ModelProto, kept: KeptNodes) -> OperatorCounts:
        return int8_operator_counts(result, set(converted_nodes(self.graph, kept)))


def _overflow(what: str) -> StageFailed:
    return StageFailed(
        f"in FP16 node {what}, the largest number is {FP16_MAX:.0f}; keep that node and those that "
        "take its result with --keep-fp32, find them with --search nodes, or lower --data-max"
    )
