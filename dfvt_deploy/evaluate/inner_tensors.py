"""The inner tensors of two ONNX files of one model, compared in the order of their computation."""

import copy
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import onnx

from ..compare.agreement import INNER_TENSORS, TensorAgreement, compare_tensors
from ..errors import StageFailed
from ..names import ONNX_FILES
from ..precision.graph_tensors import graph_tensors
from ..runners import Tensors
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..types import Precision
from . import run
from .build_stages import Stages
from .datasets.sample import Sample
from .results import TensorComparison, TensorDifference
from .stages import Stage

#: Images that the tensors are compared on. More images hardly change what is found.
IMAGES = 2

#: Tensors that are computed and held at a time.
_AT_ONCE = 48

#: Tensors with the largest differences that a comparison lists.
_LISTED = 10


def compare_inner_tensors(
    stages: Stages, stage: Stage, samples: Sequence[Sample]
) -> TensorComparison:
    """Compare the inner tensors of a stage's ONNX file with those of model.onnx, by name. Both
    files run in onnxruntime on the CPU with the tensors as outputs, so onnxruntime fuses no nodes
    across them, and the figures are those of the graph as it is written. Raises StageFailed where
    the files have no tensor in common, or no image can be used."""
    assert stage.file is not None
    names = ONNX_FILES[Precision.FP32], stage.file
    models = [onnx.load(stages.artifact.directory / name) for name in names]
    producers = [graph_tensors(model).float_results() for model in models]
    common = [name for name in producers[0] if name in producers[1]]
    if not common:
        raise StageFailed(f"{names[1]} and {names[0]} have no inner tensor of one name")
    prepared = (run.prepare(sample, stages.pipeline) for sample in samples)
    usable = (stages.pipeline.feed(p.inputs) for p in prepared if p.inputs is not None)
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
        for name, agreement in _agreements(models, common, feeds, stages.options.threads).items()
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
    feeds: Sequence[Tensors],
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


def _tensors(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Tensors], threads: int | None
) -> Iterator[Tensors]:
    """The named tensors for each feed, as float32."""
    tapped = copy.deepcopy(model)
    del tapped.graph.output[:]
    # onnxruntime infers the type and the shape of an output that states neither.
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with OnnxRuntimeRunner(tapped.SerializeToString(), threads=threads, arena=False) as runner:
        for feed in feeds:
            outputs = runner.infer(feed)
            yield {name: outputs[name].astype(np.float32) for name in names}
