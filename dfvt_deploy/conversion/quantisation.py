"""An FP32 ONNX file to INT8: static quantisation by onnxruntime, written as QDQ pairs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto

from ..errors import DfvtError, StageFailed
from ..types import Int8Target, RangeMethod
from .calibration import Feed
from .graph_tensors import LAYERS, GraphTensors, sort_nodes
from .half import Census, census
from .half_plan import ASKED, SEARCHED, check_names
from .quiet import quiet
from .to_onnx import MAX_IR_VERSION, strip

_QUANTISED = ("Conv", "Gemm", "MatMul")

DEPTHWISE = "depthwise convolution: slower in INT8"
SMALL = "small or pointwise convolution: loses most, gains little"
THIN = "thin layer (gate, scores): loses most, gains nothing"
TWO_ACTIVATIONS = "product of two activations: gains nothing, and pooling matrices would lose"
NOT_A_LAYER = "no layer: nothing to gain"

#: Weights of the smallest convolution that is quantised: 3x3 from 256 to 256 channels; where the
#: kernel is 1x1, more than the backbone's, which come after activations of very uneven channels.
_LARGE, _LARGE_POINTWISE = 256 * 256 * 9, 2**21

#: A linear layer is thin if it has fewer channels than this on one side, and over `_THIN_RATIO`
#: times as many on the other.
_THIN, _THIN_RATIO = 128, 8

#: Percentile of absolute values that `RangeMethod.PERCENTILE` keeps.
PERCENTILE = 99.999


def quantisation_plan(
    graph: GraphTensors, *, asked: Iterable[str] = (), searched: Iterable[str] = ()
) -> dict[str, str]:
    """Nodes that stay in FP32 with the reason, by name; only nodes with floating-point values.

    What is quantised are wide linear layers and large convolutions: the time is there, and the
    others cost most of the accuracy (docs/precision.md has the figures).

    Raises:
        BadInput: a name in `asked` is neither a node nor an operator of this graph.
    """
    asked, searched = set(asked), set(searched)
    check_names(graph, asked)
    kept: dict[str, str] = {}
    for node in graph.nodes:
        names = {node.name, node.op_type}
        if not graph.computes(node):
            continue
        if names & asked:
            kept[node.name] = ASKED
        elif names & searched:
            kept[node.name] = SEARCHED
        elif node.op_type not in LAYERS:
            kept[node.name] = NOT_A_LAYER
        elif not graph.is_layer(node):
            kept[node.name] = TWO_ACTIVATIONS
        elif node.op_type not in _QUANTISED or _groups(node) > 1:
            kept[node.name] = DEPTHWISE
        else:
            shape = tuple(graph.weights[node.input[1]].dims)
            least = _LARGE if max(shape[2:], default=1) > 1 else _LARGE_POINTWISE
            if node.op_type == "Conv" and math.prod(shape) < least:
                kept[node.name] = SMALL
            elif node.op_type != "Conv" and _is_thin(shape):
                kept[node.name] = THIN
    return kept


def activation_ranges(file: Path, feeds: Iterable[Feed], method: RangeMethod) -> Any:
    """Ranges of what layers take and give, as onnxruntime's `TensorsData`.

    Images go one by one: what is held of them are histograms, or two numbers a tensor.

    Raises:
        StageFailed: onnxruntime cannot run or calibrate the graph.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    methods = {
        RangeMethod.ENTROPY: (CalibrationMethod.Entropy, {}),
        RangeMethod.PERCENTILE: (CalibrationMethod.Percentile, {"percentile": PERCENTILE}),
        RangeMethod.MINMAX: (CalibrationMethod.MinMax, {}),
    }
    kind, options = methods[method]
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            calibrator = create_calibrator(
                file,
                list(_QUANTISED),
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=kind,
                extra_options=options,
            )
            for feed in feeds:
                calibrator.collect_data(_One(feed))
            return calibrator.compute_data()
        except DfvtError:  # an image of the feeds
            raise
        except Exception as error:  # onnxruntime raises its own, numpy's and built-in ones
            raise StageFailed(f"onnxruntime could not calibrate {file}: {error}") from error


def int8_from_float(
    file: Path, ranges: Any, quantised: Collection[str], target: Int8Target = Int8Target.CPU
) -> ModelProto:
    """Quantise the named nodes: weights int8 around 0, a scale per channel; activations as the
    target wants them.

    Raises:
        StageFailed: onnxruntime or the ONNX checker refuses the graph.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    symmetric = target is Int8Target.TENSORRT
    # What a linear layer gives stays float: onnxruntime's integer kernels can give it. Those of
    # convolutions cannot; in TensorRT nothing is gained by rounding what a layer gives.
    float_results = list(_QUANTISED) if symmetric else ["Gemm", "MatMul"]
    options = {
        "ActivationSymmetric": symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": not symmetric,
        "OpTypesToExcludeOutputQuantization": float_results,
    }
    try:
        with quiet():
            model = load_model_with_shape_infer(file)
            if quantised:
                quantizer = QDQQuantizer(
                    model,
                    True,  # per channel
                    False,  # reduce_range: eight bits of weights
                    QuantType.QInt8,
                    QuantType.QInt8 if symmetric else QuantType.QUInt8,
                    ranges,
                    sorted(quantised),
                    [],
                    list(_QUANTISED),
                    options,
                )
                quantizer.quantize_model()
                model = quantizer.model.model
                sort_nodes(model.graph)
        del model.graph.value_info[:]
        model.ir_version = min(model.ir_version, MAX_IR_VERSION)
        strip(model)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise StageFailed(f"onnxruntime could not quantise {file}: {error}") from error
    return model


def int8_census(model: ModelProto, quantised: Collection[str]) -> Census:
    """Nodes by operator and precision; those in `quantised` are `int8`."""
    counts = census(model)
    for node in model.graph.node:
        if node.name in quantised:
            row = counts[node.op_type]
            row["fp32"] -= 1
            row["int8"] = row.get("int8", 0) + 1
    return {
        operator: {precision: count for precision, count in row.items() if count}
        for operator, row in counts.items()
    }


class _One:
    """One feed as onnxruntime's calibrators read it."""

    def __init__(self, feed: Feed) -> None:
        self._feeds = [dict(feed)]

    def get_next(self) -> dict[str, Any] | None:
        return self._feeds.pop() if self._feeds else None


def _is_thin(shape: tuple[int, ...]) -> bool:
    narrow, wide = sorted(shape[-2:])
    return narrow < _THIN and wide > _THIN_RATIO * narrow


def _groups(node: NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1)
