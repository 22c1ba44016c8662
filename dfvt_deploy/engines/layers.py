"""Counts of the layers that do the arithmetic, by the precision they compute in.

They prove that an engine computes in the precision that was asked for.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import StageFailed
from ..types import Precision
from .record import ComputeLayers

if TYPE_CHECKING:
    import tensorrt

#: Layer types of a network that multiply and accumulate.
_COMPUTE = {
    "CONVOLUTION": "convolution",
    "DECONVOLUTION": "deconvolution",
    "MATRIX_MULTIPLY": "matrix multiply",
    "EINSUM": "einsum",
}

#: Layer types that pass a tensor on with its numbers unchanged.
_TRANSPARENT = {"SHUFFLE", "SQUEEZE", "UNSQUEEZE", "IDENTITY"}

_DTYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}

#: Share of the compute layers that must compute in the precision that was asked for. Mixed
#: precision leaves some in float32, and quantisation leaves out what would lose too much.
LEAST_SHARE = {Precision.FP32: 1.0, Precision.FP16: 0.5, Precision.INT8: 0.25}


def network_layers(network: "tensorrt.INetworkDefinition") -> ComputeLayers:
    """Count the layers of a parsed, strongly typed network, whose types TensorRT must keep to."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for layer in layers:
        if (kind := _COMPUTE.get(layer.type.name)) is None:
            continue
        operands = [layer.get_input(index) for index in range(min(layer.num_inputs, 2))]
        quantised = all(t is not None and _dequantised(t.name, producers) for t in operands)
        dtype = layer.get_output(0).dtype.name
        counts[kind]["int8" if quantised else _DTYPES.get(dtype, dtype.lower())] += 1
    return ComputeLayers(source="network", layers={k: dict(counts[k]) for k in sorted(counts)})


def _dequantised(tensor: str, producers: "Mapping[str, tensorrt.ILayer]") -> bool:
    """Whether a tensor comes out of a DequantizeLinear, perhaps reshaped on the way."""
    layer = producers.get(tensor)
    while layer is not None and layer.type.name in _TRANSPARENT:
        source = layer.get_input(0)
        layer = None if source is None else producers.get(source.name)
    return layer is not None and layer.type.name == "DEQUANTIZE"


#: Kind of layer by a part of the inspector's name for it, in lower case. The first that a name
#: holds counts.
_INSPECTED = {
    "deconv": "deconvolution",
    "conv": "convolution",
    "gemm": "matrix multiply",
    "matrixmultiply": "matrix multiply",
    "matmul": "matrix multiply",
    "mha": "attention",
    "attention": "attention",
    "einsum": "einsum",
}

#: Precision by a part of the inspector's name for a type. The first that a text holds counts.
_FORMATS = {
    "int8": "int8",
    "fp8": "fp8",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "half": "fp16",
    "fp32": "fp32",
    "float": "fp32",
}

#: Keys of a tensor's type in the report: those of TensorRT 11, then of 10.
_TYPE_KEYS = ("DataType", "Format/Datatype", "Format")


def layers_of_report(report: str) -> ComputeLayers | None:
    """Count the layers of an engine from its inspector's report in JSON, by the format of their
    first input, if told."""
    try:
        layers = json.loads(report)["Layers"]
    except (ValueError, KeyError, TypeError):
        return None
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for layer in layers:
        if not isinstance(layer, dict):  # names only: built without detailed profiling
            continue
        name = str(layer.get("LayerType", "")).lower()
        kind = next((kind for part, kind in _INSPECTED.items() if part in name), None)
        tensors = layer.get("Inputs") or layer.get("Outputs") or []
        if kind is None or not tensors:
            continue
        words = " ".join(str(tensors[0].get(key, "")) for key in _TYPE_KEYS).lower()
        if (dtype := next((d for part, d in _FORMATS.items() if part in words), None)) is not None:
            counts[kind][dtype] += 1
    if not counts:
        return None
    return ComputeLayers(source="inspector", layers={k: dict(counts[k]) for k in sorted(counts)})


def require_precision(what: str, layers: ComputeLayers, precision: Precision, remedy: str) -> None:
    """Raise StageFailed, with the counts, where too few layers of a file or engine (`what`) compute
    in the precision that was asked for; the remedy is that of its ONNX file."""
    least = LEAST_SHARE[precision]
    found = layers.count(precision.value)
    if layers.total == 0 or found < least * layers.total:
        counted = sum(map(Counter, layers.layers.values()), Counter[str]())
        others = ", ".join(f"{count} {name}" for name, count in counted.most_common())
        raise StageFailed(
            f"{what} was asked for in {precision}, but {found} of its {layers.total} compute "
            f"layers are ({others or 'none'}, counted over the {layers.source}), the least is "
            f"{least:.0%}; {remedy}"
        )
