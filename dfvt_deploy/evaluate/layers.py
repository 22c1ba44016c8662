"""Two ONNX files of one model compared tensor by tensor, in the order they are computed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..artifact import ONNX_FILES, Artifact
from ..errors import StageFailed
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..types import Precision
from . import passing
from .agreement import TensorAgreement, compare_tensors
from .hops import Hop, LocalSteps
from .verdict import LayerComparison, LayerDifference

if TYPE_CHECKING:
    from .datasets import Sample

#: Largest difference of a tensor over its own largest value, by the file's precision.
LIMITS: Mapping[Precision, float] = {Precision.FP16: 0.02, Precision.INT8: 0.2}

#: Images that are looked at; one tensor says as much about one image as about many.
IMAGES = 2

#: Tensors that are held at a time.
_AT_ONCE = 48

#: Tensors that a comparison lists.
_LISTED = 10

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def compare_layers(
    artifact: Artifact,
    hop: Hop,
    steps: LocalSteps,
    samples: Sequence[Sample],
    threads: int | None = None,
) -> LayerComparison:
    """Compare the inner tensors of a hop's ONNX file with those of model.onnx.

    Tensors are matched by name; both files run in onnxruntime on the CPU with the tensors as
    outputs, a few at a time. That keeps it from fusing across them, so the figures are of the
    graph as written.

    Raises:
        StageFailed: the files have no tensor in common, or no image can be used.
    """
    assert hop.file is not None
    paths = artifact.directory / ONNX_FILES[Precision.FP32], artifact.directory / hop.file
    models = [onnx.load(path) for path in paths]
    producers = [_float_tensors(model) for model in models]
    common = [name for name in producers[0] if name in producers[1]]
    if not common:
        raise StageFailed(f"{hop.file} and {paths[0].name} have no inner tensor of one name")
    prepared = (passing.prepare(sample, steps) for sample in samples)
    feeds = [steps.feed(p.inputs) for p in prepared if p.inputs is not None][:IMAGES]
    if not feeds:
        raise StageFailed("no image can be decoded to compare layers on")
    limit = LIMITS[hop.precision]
    found: dict[str, TensorAgreement] = {}
    for names in _chunks(common):
        runs = zip(*(_tensors(model, names, feeds, threads) for model in models), strict=True)
        for reference, candidate in runs:
            for name in names:
                if reference[name].shape == candidate[name].shape:
                    one = compare_tensors(reference[name], candidate[name])
                    found[name] = found[name] + one if name in found else one
    differences = [
        LayerDifference(
            tensor=name,
            operator=producers[1][name],
            max_abs=agreement.max_abs,
            max_rel=agreement.max_rel,
            non_finite=agreement.non_finite,
        )
        for name, agreement in found.items()
    ]
    return LayerComparison(
        hop=hop.name,
        file=hop.file,
        images=len(feeds),
        limit=limit,
        first=next((d for d in differences if d.non_finite or d.max_rel > limit), None),
        worst=tuple(sorted(differences, key=lambda d: (-d.non_finite, -d.max_rel))[:_LISTED]),
        compared=len(differences),
        unmatched=len(producers[0]) - len(common),
    )


def _float_tensors(model: onnx.ModelProto) -> dict[str, str]:
    """Floating-point tensors of the outer graph in the order they are computed, with the operator
    that makes each."""
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    return {
        name: node.op_type
        for node in model.graph.node
        for name in node.output
        if types.get(name) in _FLOATS
    }


def _tensors(
    model: onnx.ModelProto,
    names: Sequence[str],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    threads: int | None,
) -> Iterator[dict[str, NDArray[Any]]]:
    """The named tensors for each feed, as float32."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    # A value without type or shape: onnxruntime infers both.
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with tempfile.TemporaryDirectory(prefix="dfvt_layers_") as folder:
        path = Path(folder) / "tapped.onnx"
        onnx.save_model(tapped, path)
        with OnnxRuntimeRunner(path, threads=threads, arena=False) as runner:
            for feed in feeds:
                outputs = runner.infer(feed)
                yield {name: outputs[name].astype(np.float32) for name in names}


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]
