"""Two networks, or two saved results, against each other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..artifact import open_artifact
from ..errors import BadInput
from ..manifest import MANIFEST, Manifest
from ..pipeline import Pipeline
from ..runners import Tensors
from ..tasks.images import decode_image, normalise
from ..types import InputKind, Precision
from .candidates import Candidate, candidate_of
from .offline import time_candidates
from .options import BenchOptions, Runtime
from .results import AnyRow, Bench, Found, Interval, Row

#: Width and height of images where neither file nor the other model says more.
_SIZE = (224, 224)


def compare_networks(options: BenchOptions, images: Sequence[bytes], found: Found) -> None:
    """Time the two ONNX files or exported models that `options.models` names, in turn. Raises
    BadInput where one is neither, or they are of two tasks."""
    pairs = [_network(Path(text), options) for text in options.models]
    tasks = {manifest.task for _, manifest in pairs if manifest}
    if len(tasks) > 1:
        raise BadInput("a task cannot be compared with another; name two models of one task")
    pixels = [decode_image(data) for data in images]
    prepared: list[Tensors] = [{"images": np.asarray(i.resize(_SIZE))[None]} for i in pixels]
    feeds: dict[Candidate, Sequence[Tensors]] = {}
    for candidate, manifest in sorted(pairs, key=lambda pair: pair[1] is None):
        if manifest is None:
            feeds[candidate] = _file_feeds(candidate.file, prepared)
        else:
            pipeline = Pipeline(manifest)
            feeds[candidate] = [pipeline.feed(pipeline.prepare(image)) for image in pixels]
            pipeline = Pipeline(manifest.model_copy(update={"input_kind": InputKind.UINT8}))
            prepared = [pipeline.prepare(image) for image in pixels]
    task = tasks.pop() if all(manifest for _, manifest in pairs) else None
    time_candidates([candidate for candidate, _ in pairs], feeds, options, task, found)


def _network(path: Path, options: BenchOptions) -> tuple[Candidate, Manifest | None]:
    """A candidate, and the manifest of its exported model."""
    runtime = next(iter(options.runtimes), Runtime.ONNXRUNTIME)
    precision = next(iter(options.precisions), Precision.FP32)
    if path.suffix != ".onnx":
        artifact = open_artifact(path if path.is_dir() else options.exports / path)
        return candidate_of(artifact, runtime, precision), artifact.manifest
    if not path.is_file():
        raise BadInput(f"{path} does not exist; give an ONNX file, a model or a saved result")
    if (path.parent / MANIFEST).is_file():
        artifact = open_artifact(path.parent)
        if record := artifact.manifest.files.get(path.name):
            wanted = precision if precision is Precision.BF16 else record.precision
            return candidate_of(artifact, runtime, wanted), artifact.manifest
    return Candidate(str(path), runtime, precision, path), None


def _file_feeds(path: Path, prepared: Sequence[Tensors]) -> list[Tensors]:
    """Inputs for an ONNX file of no exported model, known by their types and shapes; BadInput where
    it takes something else than images and their sizes.

    prepared: `images` uint8 (1, H, W, 3), resized where the file has fixed sides, and perhaps
        `image_sizes` int64 (1, 2).
    """
    from ..onnx_model import load_onnx

    graph = load_onnx(path).graph
    weights = {each.name for each in graph.initializer}
    tensors = {each.name: each.type.tensor_type for each in graph.input if each.name not in weights}
    return [{name: _value(path, name, t, each) for name, t in tensors.items()} for each in prepared]


def _value(path: Path, name: str, tensor: Any, inputs: Tensors) -> Any:
    from onnx import TensorProto

    shape = [dim.dim_value for dim in tensor.shape.dim]
    pixels, kind = inputs["images"], (tensor.elem_type, len(shape))
    if kind == (TensorProto.INT64, 2):
        return inputs.get("image_sizes", np.array([pixels.shape[1:3]], np.int64))
    is_uint8 = kind == (TensorProto.UINT8, 4)
    if not is_uint8 and kind != (TensorProto.FLOAT, 4):
        raise BadInput(
            f"{path}: input {name} is neither images, uint8 (N, H, W, 3) or float32 (N, 3, H, W), "
            "nor their sizes, int64 (N, 2); compare exported models instead"
        )
    sides = shape[1:3] if is_uint8 else shape[2:]
    height, width = (side or free for side, free in zip(sides, pixels.shape[1:3], strict=True))
    if (height, width) != pixels.shape[1:3]:
        pixels = np.asarray(Image.fromarray(pixels[0]).resize((width, height)))[None]
    return pixels if is_uint8 else normalise(pixels)


def compare_results(first: Path, second: Path) -> Bench:
    """The second of two results saved from `--json`, with the ratios of its rows to the first's.
    Raises BadInput where a file is something else, or the two have no row in common."""
    remedy = "it is no result of bench; save one with: dfvt-deploy bench NAME --json"
    before, after = Bench.read(first, remedy), Bench.read(second, remedy)
    base = {_key(row): row.p50 for row in before.rows}

    def ratios(rows: Sequence[AnyRow]) -> tuple[AnyRow, ...]:
        pairs = ((row, base[_key(row)]) for row in rows if _key(row) in base)
        return tuple(row.model_copy(update={"ratio": _ratio(row.p50, old)}) for row, old in pairs)

    found = {"offline": ratios(after.offline), "served": ratios(after.served)}
    if not any(found.values()):
        raise BadInput(f"{first} and {second} have no row in common; compare runs of one model")
    return after.model_copy(update=found)


def _ratio(mine: Interval, base: Interval) -> Interval:
    low, high = mine.low / base.high, mine.high / base.low
    return Interval(median=mine.median / base.median, low=low, high=high)


def _key(row: Row) -> tuple[str, str, str]:
    return row.model, row.title, row.setting
