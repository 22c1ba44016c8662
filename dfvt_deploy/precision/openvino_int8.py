"""FP32 graphs quantised to INT8 with NNCF, for OpenVINO."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from unittest import mock

from onnx import ModelProto, NodeProto

from ..errors import DfvtError, StageFailed, optional
from ..quiet import quiet
from .calibration import CalibrationImages
from .conversions import Conversion, KeptNodes
from .fp16 import initializers_from_constants
from .int8 import no_dense_layer, no_wide_layer


@dataclass(eq=False)
class OpenVINOInt8Conversion(Conversion):
    """A conversion to INT8 with NNCF's quantisation after training and its correction of biases.

    SmoothQuant is off: it moved the logits of DFvT further from FP32.

    dense: whether small and pointwise convolutions stay in FP32, as detection and segmentation
        lose too much with them (docs/precision.md).
    seven: weights of 7 bits.
    """

    runtime: ClassVar[str] = "openvino"
    dense: bool
    seven: bool
    _images: CalibrationImages | None = field(default=None, init=False)

    def calibrate(self, images: CalibrationImages) -> None:
        _nncf()
        self._images = images  # NNCF measures ranges while it quantises

    def reason(self, node: NodeProto, kept: KeptNodes, least: bool) -> str | None:
        return (no_wide_layer if self.dense else no_dense_layer)(self.graph, node)

    def result(self, kept: KeptNodes) -> ModelProto:
        assert self._images is not None
        quantised = set(self.converted(kept))
        if not quantised:
            return self.model
        others = [node.name for node in self.graph.nodes if node.name not in quantised]
        return _quantised(self.model, self._images, others, self.seven)


def _quantised(
    model: ModelProto, images: CalibrationImages, others: Sequence[str], seven: bool
) -> ModelProto:
    """The model with all layers but `others` quantised; StageFailed where NNCF refuses it."""
    import onnxruntime

    nncf = _nncf()
    advanced = nncf.quantization.advanced_parameters
    fixes = advanced.OverflowFix
    off = advanced.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    copy = ModelProto()
    copy.CopyFrom(model)
    initializers_from_constants(copy.graph)  # NNCF looks for weights among the initializers
    onnxruntime.set_default_logger_severity(3)  # errors, as NNCF's own sessions warn of its probes
    try:
        with quiet():
            found: ModelProto = nncf.quantize(
                copy,
                nncf.Dataset(images),
                subset_size=len(images),
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=nncf.IgnoredScope(names=list(others), validate=False),
                advanced_parameters=advanced.AdvancedQuantizationParameters(
                    overflow_fix=fixes.ENABLE if seven else fixes.FIRST_LAYER,
                    smooth_quant_alphas=off,
                ),
            )
            return found
    except DfvtError:  # an image of the calibration
        raise
    except Exception as error:  # NNCF raises its own, onnxruntime's and built-in ones
        raise StageFailed(f"NNCF could not quantise the model: {error}") from error
    finally:
        onnxruntime.set_default_logger_severity(2)


def _nncf() -> Any:
    """NNCF, which sends nothing about its use with this variable set while it is imported."""
    with mock.patch.dict(os.environ, NNCF_CI="1"):
        return optional("nncf")
