"""Images through the stages, one by one; the result of each is stored at once."""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..compare import comparison_of
from ..errors import BadInput, DfvtError, MissingDependency, StageFailed
from ..pipeline import Pipeline
from ..progress import image_bar
from ..runners import InferenceFailed
from ..tasks.images import ImageError
from .results import Unjudged
from .stages import Part, Stage, StageOutputs
from .store import ImageRecord, Key, ResultStore, StageRecord, digest_of

if TYPE_CHECKING:
    from .datasets.sample import Sample
    from .metrics import Metric

#: The stage that refuses an image which cannot be decoded.
DECODING = "decoding"


class ImageRefused(Exception):
    """A stage cannot answer an image."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason


@dataclass(frozen=True)
class Prepared:
    """An image that was read, and its tensors; or `refused`, why there are none."""

    sample: "Sample"
    digest: str
    encoded: bytes = b""
    inputs: Mapping[str, NDArray[Any]] | None = None
    refused: str = ""


def sample_digest(sample: "Sample") -> str:
    """A digest of what an image's result depends on: the file's size and time, and the truth."""
    files = [sample.path]
    if (truth_file := getattr(sample.truth, "path", None)) is not None:
        files.append(truth_file)
    stats = []
    for file in files:
        try:
            found = file.stat()
            stats.append((found.st_size, found.st_mtime_ns))
        except OSError:
            stats.append((-1, -1))
    return digest_of([sample.id, stats, repr(sample.truth)])[:16]


def run_stages(
    stages: Sequence[Stage],
    pipeline: Pipeline,
    samples: "Sequence[Sample]",
    metric: "Metric | None",
    store: ResultStore,
    workers: int,
) -> list[Key]:
    """Pass every image that has no stored result through the stages, and store its result.

    Decoding and preprocessing run in `workers` threads and only a few images ahead, so memory does
    not grow with the number of images. Returns the keys of the stored results in the order of the
    samples; an image that changes during the run has the digest that it had when it was read.
    Raises DfvtError where a stage cannot go on, such as a server that no longer answers.
    """
    digests = {sample.id: sample_digest(sample) for sample in samples}
    left = [sample for sample in samples if (sample.id, digests[sample.id]) not in store]
    with image_bar("images", len(samples), len(samples) - len(left)) as advance:
        for prepared in _prepared_ahead(left, pipeline, workers):
            digests[prepared.sample.id] = prepared.digest
            store.append((prepared.sample.id, prepared.digest), _record(stages, prepared, metric))
            advance()
    return list(digests.items())


def stage_outputs(
    stages: Sequence[Stage], prepared: Prepared
) -> Iterator[tuple[Stage, StageOutputs, float]]:
    """Pass an image through the stages; yields each stage, its outputs and its milliseconds. Raises
    ImageRefused where a stage cannot answer the image."""
    if prepared.inputs is None:
        raise ImageRefused(DECODING, prepared.refused)
    done: dict[str | None, StageOutputs] = {
        None: StageOutputs(prepared.encoded, prepared.inputs, outputs={}, answers={})
    }
    for stage in stages:
        start = time.perf_counter()
        try:
            done[stage.name] = stage.step(done[stage.source])
        except (ImageError, BadInput, InferenceFailed) as error:
            raise ImageRefused(stage.name, str(error)) from error
        except DfvtError:
            raise
        except Exception as error:  # a runtime's own exception for tensors it cannot take
            raise ImageRefused(stage.name, f"{type(error).__name__}: {error}") from error
        yield stage, done[stage.name], 1000 * (time.perf_counter() - start)


def prepare(sample: "Sample", pipeline: Pipeline) -> Prepared:
    """Read, decode and preprocess an image."""
    digest = sample_digest(sample)
    try:
        encoded = sample.path.read_bytes()
        inputs = pipeline.read(encoded)
    except OSError as error:
        return Prepared(sample, digest, refused=f"cannot be read: {error.strerror}")
    except ImageError as error:
        return Prepared(sample, digest, refused=str(error))
    return Prepared(sample, digest, encoded, inputs)


def _prepared_ahead(
    samples: "Sequence[Sample]", pipeline: Pipeline, workers: int
) -> Iterator[Prepared]:
    """Prepared images in order; at most two a worker wait to be taken."""
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Prepared]] = deque()
        try:
            for sample in samples:
                waiting.append(pool.submit(prepare, sample, pipeline))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _record(stages: Sequence[Stage], prepared: Prepared, metric: "Metric | None") -> ImageRecord:
    """The result of one image at every stage, or its refusal."""
    records: dict[str, StageRecord] = {}
    done: dict[str, StageOutputs] = {}
    reference = stages[0].name
    try:
        for stage, outputs, milliseconds in stage_outputs(stages, prepared):
            done[stage.name] = outputs
            step = total = result = None
            if stage.source is not None:
                step = stage.compare_step(done[stage.source], outputs)
                # Beside the reference a step is the total, unless it compares the inputs alone.
                if stage.source != reference or stage.part is Part.INPUTS:
                    total = stage.compare_total(done[reference], outputs)
            if metric is not None:
                result = _scored(metric, stage, outputs, prepared.sample)
            records[stage.name] = StageRecord(
                classes=comparison_of(stage.task).class_counts(outputs.answers),
                milliseconds=round(milliseconds, 3),
                step=step,
                total=total,
                result=result,
            )
    except ImageRefused as refused:
        unjudged = Unjudged(image=prepared.sample.id, **vars(refused))
        return ImageRecord(refused=unjudged)
    return ImageRecord(stages=records)


def _scored(
    metric: "Metric", stage: Stage, outputs: StageOutputs, sample: "Sample"
) -> dict[str, Any]:
    try:
        return metric.image_result(outputs.answers, sample)
    except MissingDependency:
        raise
    except StageFailed as error:
        raise ImageRefused(stage.name, str(error)) from error
