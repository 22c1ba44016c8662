"""`bench`: one run over models, and one result."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..artifact import Artifact, exported_models, open_artifact
from ..data import SAMPLES
from ..errors import BadInput
from ..image_files import find_images, spread
from ..pipeline import Pipeline
from ..serving.client import read_image
from ..tasks.images import ImageError, decode_image
from ..types import Precision
from .candidates import candidate_of, candidates_of
from .compare import compare_networks, compare_results
from .offline import time_candidates
from .options import BenchOptions, Runtime
from .results import Bench, Found


def bench(model: str | Path, **fields: Any) -> Bench:
    """Measure all forms of an exported model that exist here.

    Ctrl-C ends the run early; what was measured until then is the result.

    Args:
        model: folder of the exported model (`exports/<name>`).
        fields: the other fields of `BenchOptions`.

    Raises BadInput for options, files or images that cannot be used, StageFailed where the baseline
    cannot run, and ServerFailed where the server does not start or answer.
    """
    directory = Path(model)
    return bench_with(BenchOptions(models=(directory.name,), exports=directory.parent, **fields))


def bench_with(options: BenchOptions) -> Bench:
    """`bench` with its options as one object."""
    if options.compare and all(name.endswith(".json") for name in options.models):
        return compare_results(*map(Path, options.models))
    found, images, interrupted = Found(), read_images(options), False
    try:
        if options.compare:
            compare_networks(options, images, found)
        else:
            for folder in exported_models(options.exports, options.models):
                _measure(open_artifact(folder), options, images, found)
    except KeyboardInterrupt:
        interrupted = True
    return found.result(options, len(images), interrupted=interrupted)


def _measure(
    artifact: Artifact, options: BenchOptions, images: Sequence[bytes], found: Found
) -> None:
    if options.on_server:
        from .served import measure_served

        return measure_served(artifact, options, images, found)
    pipeline, name = Pipeline(artifact.manifest), artifact.manifest.name
    baseline = candidate_of(artifact, Runtime.ONNXRUNTIME, Precision.FP32)
    others = candidates_of(artifact, options.runtimes, options.precisions)
    candidates = list(dict.fromkeys([baseline, *others]))
    prepared = [pipeline.read(data) for data in images]
    inputs = [pipeline.feed(each) for each in prepared]
    feeds = dict.fromkeys(candidates, inputs)
    outputs = time_candidates(candidates, feeds, options, artifact.manifest.task, found)
    before = [_milliseconds(pipeline.read, data) for data in images]
    pairs = zip(prepared, outputs, strict=True)
    after = [_milliseconds(pipeline.postprocess, *pair) for pair in pairs]
    found.around_ms[name] = median(before), median(after)


def read_images(options: BenchOptions) -> list[bytes]:
    """The encoded images. Raises BadInput where there is none, or one cannot be decoded."""
    folder = options.images or SAMPLES
    paths = spread(find_images(folder), options.limit)
    if not paths:
        raise BadInput(f"--images {folder} holds no image; give a folder with JPEG or PNG files")
    images = [read_image(path) for path in paths]
    for path, data in zip(paths, images, strict=True):
        try:
            decode_image(data)
        except ImageError as error:
            raise BadInput(f"{path}: {error}; take it out of --images") from None
    return images


def _milliseconds(call: Callable[..., object], *arguments: Any) -> float:
    call(*arguments)
    start = time.perf_counter()
    call(*arguments)
    return 1000 * (time.perf_counter() - start)
