"""How large the values inside a network become on given images, and where they stop being finite.

Each tensor's extremes and sum are computed inside the graph, so that only three numbers of a tensor
are held, whatever the number and size of the images.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from ..runners.onnx_runtime import OnnxRuntimeRunner
from .calibration import Feed
from .graph_tensors import GraphTensors, graph_tensors

_HIGHEST, _LOWEST, _SUM = "/highest", "/lowest", "/sum"
_PROBES = {"ReduceMax": _HIGHEST, "ReduceMin": _LOWEST, "ReduceL1": _SUM}


def value_ranges(model: ModelProto, feeds: Iterable[Feed]) -> dict[str, float]:
    """Largest absolute value of every floating-point tensor over the feeds, by name.

    Infinity for a tensor that held a value that is not finite. Inputs and weights are not in it.

    Raises:
        StageFailed: onnxruntime cannot run the graph.
    """
    graph = graph_tensors(model)
    names = [name for node in graph.nodes for name in node.output if graph.is_float(name)]
    probed = _probed(model, graph, names)
    largest = dict.fromkeys(names, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probed.onnx"
        onnx.save_model(probed, file)
        with OnnxRuntimeRunner(file, spare=True) as runner:
            for feed in feeds:
                found = runner.infer(feed)
                for name in names:
                    # A maximum may lose a NaN on its way, a sum does not.
                    finite = np.isfinite(found[name + _SUM])
                    ends = found[name + _HIGHEST], found[name + _LOWEST]
                    value = float(np.abs(ends).max()) if finite else math.inf
                    largest[name] = max(largest[name], value)
    return largest


def _probed(model: ModelProto, graph: GraphTensors, names: list[str]) -> ModelProto:
    """The model with three numbers of each tensor for outputs, and no others."""
    probed = ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    del probed.graph.value_info[:]
    for name in names:
        source = name
        if graph.types[name] != TensorProto.FLOAT:
            source = f"{name}/float"
            cast = helper.make_node("Cast", [name], [source], to=TensorProto.FLOAT)
            probed.graph.node.append(cast)
        for operator, end in _PROBES.items():
            probed.graph.node.append(helper.make_node(operator, [source], [name + end], keepdims=0))
            value = helper.make_tensor_value_info(name + end, TensorProto.FLOAT, [])
            probed.graph.output.append(value)
    return probed
