"""FP32 graphs quantised to INT8 with onnxruntime, as QuantizeLinear and DequantizeLinear pairs."""

import math
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import onnx
from onnx import ModelProto, NodeProto

from ..errors import DfvtError, StageFailed
from ..quiet import quiet
from ..types import Int8Target, RangeMethod
from .calibration import CalibrationImages
from .conversions import Conversion, KeptNodes
from .fp16 import finished
from .graph_tensors import LAYERS, GraphTensors, sort_nodes

_QUANTISED = ("Conv", "Gemm", "MatMul")

#: Weights of the smallest convolution that is quantised: 3x3 from 256 to 256 channels; where the
#: kernel is 1x1, more than the backbone's, which come after activations of very uneven channels.
_LARGE, _LARGE_POINTWISE = 256 * 256 * 9, 2**21

#: A linear layer is thin if it has fewer channels than this on one side, and over `_THIN_RATIO`
#: times as many on the other.
_THIN, _THIN_RATIO = 128, 8


def no_wide_layer(graph: GraphTensors, node: NodeProto) -> str | None:
    """Why a node is no wide linear layer or large convolution, or None. These take most of the
    time, and the other layers lose most of the accuracy (docs/precision.md has the figures)."""
    if reason := no_dense_layer(graph, node):
        return reason
    shape = tuple(graph.weights[node.input[1]].dims)
    least = _LARGE if max(shape[2:], default=1) > 1 else _LARGE_POINTWISE
    if node.op_type == "Conv" and math.prod(shape) < least:
        return "small or pointwise convolution: loses most, gains little"
    narrow, wide = sorted(shape[-2:])
    if node.op_type != "Conv" and narrow < _THIN and wide > _THIN_RATIO * narrow:
        return "thin layer (gate, scores): loses most, gains nothing"
    return None


def no_dense_layer(graph: GraphTensors, node: NodeProto) -> str | None:
    """Why a node is no linear layer or convolution over all channels, or None."""
    if node.op_type not in LAYERS:
        return "no layer: nothing to gain"
    if not graph.is_layer(node):
        return "product of two activations: gains nothing, and pooling matrices would lose"
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type not in _QUANTISED or groups > 1:
        return "depthwise convolution: slower in INT8"
    return None


@dataclass(eq=False)
class Int8Conversion(Conversion):
    """INT8 for what `target` runs, with ranges by `method`; it saturates and never overflows.
    Weights become int8 around 0 with a scale per channel, of 7 bits with `seven`, activations what
    the target takes."""

    method: RangeMethod
    target: Int8Target
    seven: bool
    _ranges: Any = field(default=None, init=False)

    def calibrate(self, images: CalibrationImages) -> None:
        """Measure the ranges of what layers take and give. Images go one by one; histograms, or two
        numbers a tensor, are held of them. Raises StageFailed where onnxruntime cannot run or
        calibrate the graph."""
        from onnxruntime.quantization import CalibrationMethod, create_calibrator

        methods = {
            RangeMethod.ENTROPY: (CalibrationMethod.Entropy, {}),
            RangeMethod.PERCENTILE: (CalibrationMethod.Percentile, {"percentile": 99.999}),
            RangeMethod.MINMAX: (CalibrationMethod.MinMax, {}),
        }
        kind, options = methods[self.method]
        file = self.scratch / "calibrated.onnx"
        onnx.save_model(self.model, file)
        try:
            with quiet():
                calibrator = create_calibrator(
                    file,
                    list(_QUANTISED),
                    augmented_model_path=str(self.scratch / "augmented.onnx"),
                    calibrate_method=kind,
                    extra_options=options,
                )
                for feed in images:
                    one = partial(next, iter([dict(feed)]), None)
                    calibrator.collect_data(SimpleNamespace(get_next=one))
                self._ranges = calibrator.compute_data()
        except DfvtError:  # an image
            raise
        except Exception as error:  # onnxruntime raises its own, numpy's and built-in ones
            raise StageFailed(f"onnxruntime could not calibrate the model: {error}") from error

    def reason(self, node: NodeProto, kept: KeptNodes, least: bool) -> str | None:
        return no_wide_layer(self.graph, node)

    def result(self, kept: KeptNodes) -> ModelProto:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.quant_utils import add_infer_metadata

        quantised = self.converted(kept)
        symmetric = self.target is Int8Target.TENSORRT
        # Results of linear layers stay float, as onnxruntime's integer kernels can give them so.
        # Its convolutions cannot. In TensorRT nothing is gained by rounding a layer's results.
        float_results = list(_QUANTISED) if symmetric else ["Gemm", "MatMul"]
        options = {
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": not symmetric,
            "OpTypesToExcludeOutputQuantization": float_results,
        }
        try:
            with quiet():
                result = onnx.shape_inference.infer_shapes(self.model)
                if quantised:
                    add_infer_metadata(result)  # so that onnxruntime does not infer again, in files
                    quantizer = QDQQuantizer(
                        result,
                        True,  # per channel
                        self.seven,  # reduce_range
                        QuantType.QInt8,
                        QuantType.QInt8 if symmetric else QuantType.QUInt8,
                        self._ranges,
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
