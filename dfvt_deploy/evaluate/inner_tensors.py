"""The inner tensors of two ONNX files of one model, compared in the order of their computation."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice

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

#: Images that the tensors are compared on. More images hardly change what is found.
IMAGES = 2

#: Tensors that are computed and held at a time.
_AT_ONCE = 48

#: Tensors with the largest differences that a comparison lists.
_LISTED = 10


def compare_inner_tensors(
    stages: Stages, precision: str, samples: Sequence[Sample]
) -> TensorComparison:
    """Compare the inner tensors of a precision's file with those of model.onnx, by name. Both
    files run in onnxruntime on the CPU with the tensors as outputs, so onnxruntime fuses no nodes
    across them, and the figures are those of the graph as it is written. Raises StageFailed where
    the files have no tensor in common, or no image can be used."""
    names = ONNX_FILES[Precision.FP32], ONNX_FILES[Precision(precision)]
    models = [onnx.load(stages.artifact.directory / name) for name in names]
    producers = [graph_tensors(model).float_results() for model in models]
    common = [name for name in producers[0] if name in producers[1]]
    if not common:
        raise StageFailed(f"{names[1]} and {names[0]} have no inner tensor of one name")
    prepared = (run.prepare(sample, stages.pipeline) for sample in samples)
    usable = (stages.pipeline.feed(p.image.inputs) for p in prepared if p.image)
    feeds = list(islice(usable, IMAGES))
    if not feeds:
        raise StageFailed("no image can be decoded to compare inner tensors on")
    limit = INNER_TENSORS[Precision(precision)]
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
        stage=precision,
        file=names[1],
        images=len(feeds),
        limit=limit,
        first=next((d for d in differences if d.non_finite or d.max_rel > limit), None),
        worst=tuple(sorted(differences, key=lambda d: (-d.non_finite, -d.max_rel))[:_LISTED]),
        compared=len(differences),
        unmatched=len(producers[0]) - len(common),
    )


def _agreements(
    models: list[onnx.ModelProto], names: list[str], feeds: Sequence[Tensors], threads: int | None
) -> dict[str, TensorAgreement]:
    """The agreement of each named tensor over the feeds; tensors of unequal shapes are left out."""
    found: dict[str, TensorAgreement] = {}
    for start in range(0, len(names), _AT_ONCE):
        chunk = names[start : start + _AT_ONCE]
        with ExitStack() as stack:
            runners = [stack.enter_context(_tapped(model, chunk, threads)) for model in models]
            for feed in feeds:
                reference, candidate = (runner.infer(feed) for runner in runners)
                alike = [name for name in chunk if reference[name].shape == candidate[name].shape]
                for name in alike:
                    one = compare_tensors(reference[name], candidate[name])
                    found[name] = found[name] + one if name in found else one
    return found


def _tapped(model: onnx.ModelProto, names: list[str], threads: int | None) -> OnnxRuntimeRunner:
    """A runner of the model with the named tensors as outputs."""
    tapped = copy.deepcopy(model)
    del tapped.graph.output[:]
    # onnxruntime infers the type and the shape of an output that states neither.
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return OnnxRuntimeRunner(tapped.SerializeToString(), threads=threads, arena=False)
