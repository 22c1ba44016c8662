"""QDQ files in the form that TensorRT takes.

onnxruntime on a CPU is fast with unsigned activations, TensorRT takes signed ones with zero point 0
only. Unsigned numbers about 128 are signed numbers about 0 plus 128, so that one file serves both:
the rewrite is exact. TensorRT adds biases in floating point; they are given as such.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingDependency, StageFailed

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

#: Zero point of symmetric unsigned numbers.
_MIDDLE = 128


def signed_qdq(path: Path) -> bytes:
    """The ONNX file with int8 instead of uint8 numbers, and with float32 biases.

    Raises:
        StageFailed: a zero point is not the middle of its type's range.
    """
    try:
        import onnx
    except ImportError:
        raise MissingDependency("onnx", "export") from None
    model = onnx.load(path)
    graph = model.graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    replaced: dict[str, NDArray[Any]] = {}
    biases: list[NodeProto] = []
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        numbers = constants.get(node.input[0])
        if numbers is not None and numbers.dtype == np.int32:
            replaced[node.output[0]] = _dequantised(node, constants)
            biases.append(node)
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.dtype != np.uint8:
            continue
        if (zero != _MIDDLE).any():
            raise StageFailed(
                f"{path}: {node.name} has the zero point {zero.flat[0]}, TensorRT takes numbers "
                f"symmetric about 0 (int8 and 0, or uint8 and {_MIDDLE}); make the file again "
                "with: dfvt-deploy convert --precision int8 --target tensorrt"
            )
        replaced[node.input[2]] = np.zeros_like(zero, np.int8)
        if numbers is not None:
            replaced[node.input[0]] = (numbers.astype(np.int16) - _MIDDLE).astype(np.int8)
    for node in biases:
        graph.node.remove(node)
    _replace(graph, replaced)
    del graph.value_info[:]  # types have changed; the parser infers them
    return model.SerializeToString()


def _dequantised(node: NodeProto, constants: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """What a DequantizeLinear of constants gives; its zero point is 0 for int32."""
    numbers, scale = constants[node.input[0]], constants[node.input[1]]
    if scale.size > 1:  # one a channel, along the axis
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % numbers.ndim
        scale = scale.reshape([-1 if d == axis else 1 for d in range(numbers.ndim)])
    return (numbers * scale).astype(np.float32)


def _replace(graph: GraphProto, replaced: dict[str, NDArray[Any]]) -> None:
    from onnx import numpy_helper

    used = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name not in replaced and t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in replaced.items() if name in used
    )
