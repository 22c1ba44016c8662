"""FP32 graphs quantised to INT8 with onnxruntime, as QuantizeLinear and DequantizeLinear pairs."""

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto

from ..errors import DfvtError, StageFailed
from ..quiet import quiet
from ..types import Int8Target, RangeMethod
from .calibration import Feed
from .fp16 import OperatorCounts, finished, operator_counts
from .graph_tensors import LAYERS, GraphTensors, sort_nodes
from .kept_nodes import KeptNodes, nodes_to_keep

_QUANTISED = ("Conv", "Gemm", "MatMul")

#: Weights of the smallest convolution that is quantised: 3x3 from 256 to 256 channels; where the
#: kernel is 1x1, more than the backbone's, which come after activations of very uneven channels.
_LARGE, _LARGE_POINTWISE = 256 * 256 * 9, 2**21

#: A linear layer is thin if it has fewer channels than this on one side, and over `_THIN_RATIO`
#: times as many on the other.
_THIN, _THIN_RATIO = 128, 8


def kept_by_int8(
    graph: GraphTensors, asked: Collection[str] = (), searched: Collection[str] = ()
) -> KeptNodes:
    """The nodes that stay in FP32 when the others are quantised; `asked` and `searched` as in
    `nodes_to_keep`. Wide linear layers and large convolutions are quantised: they take most of the
    time, and the other layers lose most of the accuracy (docs/precision.md has the figures)."""

    def reason_of(node: NodeProto, kept: KeptNodes) -> str | None:
        if reason := _no_dense_layer(graph, node):
            return reason
        shape = tuple(graph.weights[node.input[1]].dims)
        least = _LARGE if max(shape[2:], default=1) > 1 else _LARGE_POINTWISE
        if node.op_type == "Conv" and math.prod(shape) < least:
            return "small or pointwise convolution: loses most, gains little"
        narrow, wide = sorted(shape[-2:])
        if node.op_type != "Conv" and narrow < _THIN and wide > _THIN_RATIO * narrow:
            return "thin layer (gate, scores): loses most, gains nothing"
        return None

    return nodes_to_keep(graph, reason_of, asked, searched)


def kept_by_openvino_int8(
    graph: GraphTensors, asked: Collection[str] = (), searched: Collection[str] = ()
) -> KeptNodes:
    """The nodes that stay in FP32 in a classifier for OpenVINO, where small and pointwise
    convolutions are quantised too; `asked` and `searched` as in `nodes_to_keep`."""
    return nodes_to_keep(graph, lambda node, _: _no_dense_layer(graph, node), asked, searched)


def _no_dense_layer(graph: GraphTensors, node: NodeProto) -> str | None:
    """Why a node is no linear layer or convolution over all channels, or None."""
    if node.op_type not in LAYERS:
        return "no layer: nothing to gain"
    if not graph.is_layer(node):
        return "product of two activations: gains nothing, and pooling matrices would lose"
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type not in _QUANTISED or groups > 1:
        return "depthwise convolution: slower in INT8"
    return None


def activation_ranges(
    model: ModelProto, feeds: Iterable[Feed], method: RangeMethod, scratch: Path
) -> Any:
    """The ranges of what layers take and give, as onnxruntime's `TensorsData`. Images go one by
    one; histograms, or two numbers a tensor, are held of them. `scratch` is a folder for the files
    that onnxruntime writes. Raises StageFailed where it cannot run or calibrate the graph."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    methods = {
        RangeMethod.ENTROPY: (CalibrationMethod.Entropy, {}),
        RangeMethod.PERCENTILE: (CalibrationMethod.Percentile, {"percentile": 99.999}),
        RangeMethod.MINMAX: (CalibrationMethod.MinMax, {}),
    }
    kind, options = methods[method]
    file = scratch / "calibrated.onnx"
    onnx.save_model(model, file)
    try:
        with quiet():
            calibrator = create_calibrator(
                file,
                list(_QUANTISED),
                augmented_model_path=str(scratch / "augmented.onnx"),
                calibrate_method=kind,
                extra_options=options,
            )
            for feed in feeds:
                calibrator.collect_data(_OneFeed(feed))
            return calibrator.compute_data()
    except DfvtError:  # an image of the feeds
        raise
    except Exception as error:  # onnxruntime raises its own, numpy's and built-in ones
        raise StageFailed(f"onnxruntime could not calibrate the model: {error}") from error


def int8_from_fp32(
    model: ModelProto, ranges: Any, quantised: Collection[str], target: Int8Target, seven: bool
) -> ModelProto:
    """Quantise the named nodes: weights to int8 around 0 with a scale per channel, to 7 of its bits
    with `seven`, activations, by the ranges of `activation_ranges`, to what the target takes.
    Raises StageFailed where onnxruntime or the ONNX checker refuses the graph."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    symmetric = target is Int8Target.TENSORRT
    # Results of linear layers stay float, as onnxruntime's integer kernels can give them so. Its
    # convolutions cannot. In TensorRT nothing is gained by rounding the results of a layer.
    float_results = list(_QUANTISED) if symmetric else ["Gemm", "MatMul"]
    options = {
        "ActivationSymmetric": symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": not symmetric,
        "OpTypesToExcludeOutputQuantization": float_results,
    }
    try:
        with quiet():
            result = onnx.shape_inference.infer_shapes(model)
            if quantised:
                add_infer_metadata(result)  # so that onnxruntime does not infer again, in files
                quantizer = QDQQuantizer(
                    result,
                    True,  # per channel
                    seven,  # reduce_range
                    QuantType.QInt8,
                    QuantType.QInt8 if symmetric else QuantType.QUInt8,
                    ranges,
                    sorted(quantised),
                    [],
                    list(_QUANTISED),
                    options,
                )
                quantizer.quantize_model()
                result = quantizer.model.model
                sort_nodes(result.graph)
            return finished(result)
    except Exception as error:
        raise StageFailed(f"onnxruntime could not quantise the model: {error}") from error


def int8_operator_counts(model: ModelProto, quantised: Collection[str]) -> OperatorCounts:
    """Count the nodes by operator and precision; the nodes in `quantised` are `int8`."""
    counts = operator_counts(model)
    for node in model.graph.node:
        if node.name in quantised:
            row = counts[node.op_type]
            row["fp32"] -= 1
            row["int8"] = row.get("int8", 0) + 1
    return {
        operator: {precision: count for precision, count in row.items() if count}
        for operator, row in counts.items()
    }


class _OneFeed:
    """One feed, in the form that onnxruntime's calibrators read."""

    def __init__(self, feed: Feed) -> None:
        self._feeds = [dict(feed)]

    def get_next(self) -> dict[str, Any] | None:
        return self._feeds.pop() if self._feeds else None
