"""The inner tensors of two ONNX files of one model, compared in the order of their computation."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..artifact import Artifact
from ..compare.agreement import TensorAgreement, compare_tensors
from ..compare.limits import INNER_TENSORS
from ..errors import StageFailed
from ..names import ONNX_FILES
from ..pipeline import Pipeline
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..types import Precision
from . import run
from .results import TensorComparison, TensorDifference
from .stages import Stage

if TYPE_CHECKING:
    from .datasets.sample import Sample

#: Images that the tensors are compared on. More images hardly change what is found.
IMAGES = 2

#: Tensors that are computed and held at a time.
_AT_ONCE = 48

#: Tensors with the largest differences that a comparison lists.
_LISTED = 10

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def compare_inner_tensors(
    artifact: Artifact,
    stage: Stage,
    pipeline: Pipeline,
    samples: "Sequence[Sample]",
    threads: int | None = None,
) -> TensorComparison:
    """Compare the inner tensors of a stage's ONNX file with those of model.onnx, by name.

    Both files run in onnxruntime on the CPU with the tensors as outputs, so onnxruntime fuses no
    nodes across them, and the figures are those of the graph as it is written. Raises StageFailed
    where the files have no tensor in common, or no image can be used.
    """
    assert stage.file is not None
    paths = artifact.directory / ONNX_FILES[Precision.FP32], artifact.directory / stage.file
    models = [onnx.load(path) for path in paths]
    producers = [_float_tensors(model) for model in models]
    common = [name for name in producers[0] if name in producers[1]]
    if not common:
        raise StageFailed(f"{stage.file} and {paths[0].name} have no inner tensor of one name")
    prepared = (run.prepare(sample, pipeline) for sample in samples)
    usable = (pipeline.feed(p.inputs) for p in prepared if p.inputs is not None)
    feeds = list(islice(usable, IMAGES))
    if not feeds:
        raise StageFailed("no image can be decoded to compare inner tensors on")
    limit = INNER_TENSORS[stage.precision]
    differences = [
        TensorDifference(
            tensor=name,
            operator=producers[1][name],
            max_abs=agreement.max_abs,
            max_rel=agreement.max_rel,
            non_finite=agreement.non_finite,
        )
        for name, agreement in _agreements(models, common, feeds, threads).items()
    ]
    return TensorComparison(
        stage=stage.name,
        file=stage.file,
        images=len(feeds),
        limit=limit.value,
        first=next((d for d in differences if d.non_finite or not limit.keeps(d.max_rel)), None),
        worst=tuple(sorted(differences, key=lambda d: (-d.non_finite, -d.max_rel))[:_LISTED]),
        compared=len(differences),
        unmatched=len(producers[0]) - len(common),
    )


def _agreements(
    models: Sequence[onnx.ModelProto],
    names: Sequence[str],
    feeds: Sequence[Mapping[str, NDArray[Any]]],
    threads: int | None,
) -> dict[str, TensorAgreement]:
    """The agreement of each named tensor over the feeds; tensors of unequal shapes are left out."""
    found: dict[str, TensorAgreement] = {}
    for start in range(0, len(names), _AT_ONCE):
        chunk = names[start : start + _AT_ONCE]
        runs = zip(*(_tensors(model, chunk, feeds, threads) for model in models), strict=True)
        for reference, candidate in runs:
            for name in chunk:
                if reference[name].shape == candidate[name].shape:
                    one = compare_tensors(reference[name], candidate[name])
                    found[name] = found[name] + one if name in found else one
    return found


def _float_tensors(model: onnx.ModelProto) -> dict[str, str]:
    """Floating-point tensors of the outer graph in order, with the operator that makes each."""
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
    # onnxruntime infers the type and the shape of an output that states neither.
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with tempfile.TemporaryDirectory(prefix="dfvt_tensors_") as folder:
        path = Path(folder) / "tapped.onnx"
        onnx.save_model(tapped, path)
        with OnnxRuntimeRunner(path, threads=threads, arena=False) as runner:
            for feed in feeds:
                outputs = runner.infer(feed)
                yield {name: outputs[name].astype(np.float32) for name in names}
