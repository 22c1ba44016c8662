"""What the conversions to FP16 and to INT8 have in common; `convert` and the search use it."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

from onnx import ModelProto, NodeProto

from ..errors import BadInput, StageFailed
from ..text_files import near
from .calibration import CalibrationImages
from .fp16 import OperatorCounts, operator_counts
from .graph_tensors import graph_tensors

#: Why a node stays in FP32, by the node's name. Only nodes with floating-point values are in it.
KeptNodes: TypeAlias = Mapping[str, str]


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
        """Measure ranges on images. Of the other methods only `kept` may be called before."""

    @abstractmethod
    def reason(self, node: NodeProto, kept: KeptNodes, least: bool) -> str | None:
        """Why a node stays in FP32, given the kept nodes before it in the graph's order, or None.
        With `least`, nothing that was measured is a reason."""

    def kept(
        self, asked: Collection[str], searched: Collection[str] = (), *, least: bool = False
    ) -> dict[str, str]:
        """The nodes that stay in FP32: those that `asked` and `searched` name by node or operator,
        and those with a `reason`. Raises BadInput where a name that is asked for is not in the
        graph."""
        known = {name for node in self.graph.nodes for name in (node.name, node.op_type)}
        for name in sorted(set(asked) - known):
            problem = "is neither a node nor an operator of the graph"
            raise BadInput(f"--keep-fp32 {name!r} {problem}{near(name, known)}")
        kept: dict[str, str] = {}
        for node in filter(self.graph.computes, self.graph.nodes):
            if node.name in asked or node.op_type in asked:
                kept[node.name] = "asked for with --keep-fp32"
            elif node.name in searched or node.op_type in searched:
                kept[node.name] = "found by a search"
            elif reason := self.reason(node, kept, least):
                kept[node.name] = reason
        return kept

    def converted(self, kept: KeptNodes) -> list[str]:
        """Names of the nodes that compute in the lower precision, in the graph's order."""
        computing = filter(self.graph.computes, self.graph.nodes)
        return [node.name for node in computing if node.name not in kept]

    def reasons(self, kept: KeptNodes) -> dict[str, dict[str, int]]:
        """Numbers of kept nodes by reason, then by operator, the most frequent first."""
        counted: dict[str, Counter[str]] = {}
        for node in self.graph.nodes:
            if node.name in kept and node.op_type != "Constant":  # Constants become initializers
                counted.setdefault(kept[node.name], Counter())[node.op_type] += 1
        ordered = sorted(counted.items(), key=lambda item: -item[1].total())
        return {reason: dict(row.most_common()) for reason, row in ordered}

    def overflow(self, kept: KeptNodes) -> StageFailed | None:
        """The error about the first node whose measured values the precision does not hold."""
        return None

    def trial(self, kept: KeptNodes) -> ModelProto:
        """A graph that computes in onnxruntime what the file will compute on its target."""
        return self.result(kept)

    @abstractmethod
    def result(self, kept: KeptNodes) -> ModelProto:
        """The graph of the file. Raises StageFailed where it cannot be made."""

    def count(self, result: ModelProto, kept: KeptNodes) -> OperatorCounts:
        """The numbers of the file's nodes by operator and precision."""
        return operator_counts(result, set(self.converted(kept)))
