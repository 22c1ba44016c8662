"""Images through hops, one by one, their results stored as they come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, DfvtError, StageFailed
from ..progress import image_bar
from ..tasks import segmentation
from ..tasks.images import ImageError, decode_image
from ..types import Task
from .agreement import MIN_SCORE
from .hops import Hop, LocalSteps, Passage, answers_agreement, outputs_agreement
from .store import ResultStore, digest_of

if TYPE_CHECKING:
    from .datasets import Sample
    from .metrics import Metric

#: What an image that cannot be decoded is refused by.
DECODING = "decoding"


@dataclass(frozen=True)
class Prepared:
    """An image ready for the hops, or why it is not."""

    sample: Sample
    digest: str
    encoded: bytes = b""
    inputs: Mapping[str, NDArray[Any]] | None = None
    refused: str = ""


def sample_digest(sample: Sample) -> str:
    """What a result depends on of its image: the file's size and time, and the truth."""
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


def run_hops(
    hops: Sequence[Hop],
    steps: LocalSteps,
    samples: Sequence[Sample],
    metric: Metric | None,
    store: ResultStore,
    workers: int,
) -> list[tuple[str, str]]:
    """Pass every image that has no result yet through the hops, and store what came of it.

    Decoding and preprocessing run ahead in `workers` threads, by a few images only, so that
    memory does not grow with their number.

    Returns:
        the keys of all results in the dataset's order; of an image that changed meanwhile, as it
        was when its turn came.

    Raises:
        DfvtError: a hop cannot go on, such as a server that is gone.
    """
    digests = {sample.id: sample_digest(sample) for sample in samples}
    left = [sample for sample in samples if (sample.id, digests[sample.id]) not in store]
    task = steps.manifest.task
    with image_bar("images", len(samples), len(samples) - len(left)) as advance:
        for prepared in _prepared_ahead(left, steps, workers):
            result = _result(hops, prepared, task, metric)
            digests[prepared.sample.id] = prepared.digest
            store.append(prepared.sample.id, prepared.digest, result)
            advance()
    return list(digests.items())


def passages(hops: Sequence[Hop], prepared: Prepared) -> Iterator[tuple[Hop, Passage, float]]:
    """An image through each hop: the passage after it and the milliseconds it took.

    Raises:
        Refused: a hop cannot answer the image.
    """
    assert prepared.inputs is not None
    done: dict[str | None, Passage] = {
        None: Passage(prepared.encoded, prepared.inputs, outputs={}, answers={})
    }
    for hop in hops:
        start = time.perf_counter()
        try:
            done[hop.name] = hop.step(done[hop.source])
        except (ImageError, BadInput) as error:
            raise Refused(hop.name, str(error)) from error
        except DfvtError:
            raise
        except Exception as error:  # a runtime's own, on tensors that no image should give
            raise Refused(hop.name, f"{type(error).__name__}: {error}") from error
        yield hop, done[hop.name], 1000 * (time.perf_counter() - start)


class Refused(Exception):
    """A hop cannot answer an image."""

    def __init__(self, hop: str, reason: str) -> None:
        super().__init__(reason)
        self.hop = hop
        self.reason = reason


def prepare(sample: Sample, steps: LocalSteps) -> Prepared:
    """Read, decode and preprocess an image."""
    digest = sample_digest(sample)
    try:
        encoded = sample.path.read_bytes()
        inputs = steps.inputs(decode_image(encoded))
    except OSError as error:
        return Prepared(sample, digest, refused=f"cannot be read: {error.strerror}")
    except ImageError as error:
        return Prepared(sample, digest, refused=str(error))
    return Prepared(sample, digest, encoded, inputs)


def _prepared_ahead(
    samples: Sequence[Sample], steps: LocalSteps, workers: int
) -> Iterator[Prepared]:
    """In order, at most two images a worker ahead of what was taken."""
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Prepared]] = deque()
        try:
            for sample in samples:
                waiting.append(pool.submit(prepare, sample, steps))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _result(
    hops: Sequence[Hop], prepared: Prepared, task: Task, metric: Metric | None
) -> dict[str, Any]:
    """What is stored about an image; agreements with the reference only where they differ from
    those with the hop before."""
    if prepared.refused:
        return {"refused": {"hop": DECODING, "reason": prepared.refused}}
    found: dict[str, Any] = {}
    done: dict[str, Passage] = {}
    first = hops[0]
    try:
        for hop, passage, milliseconds in passages(hops, prepared):
            done[hop.name] = passage
            entry: dict[str, Any] = {
                "classes": class_counts(task, passage.answers),
                "ms": round(milliseconds, 3),
            }
            if hop.source is not None:
                entry["step"] = hop.compare(done[hop.source], passage).as_json()
            if hop.source not in (None, first.name):
                compare = outputs_agreement if hop.network else answers_agreement
                entry["total"] = compare(task, done[first.name], passage).as_json()
            if metric is not None:
                entry["result"] = _scored(metric, hop, passage, prepared.sample)
            found[hop.name] = entry
    except Refused as refused:
        return {"refused": {"hop": refused.hop, "reason": refused.reason}}
    return {"hops": found}


def _scored(metric: Metric, hop: Hop, passage: Passage, sample: Sample) -> dict[str, Any]:
    try:
        return metric.image_result(passage.answers, sample)
    except StageFailed as error:
        raise Refused(hop.name, str(error)) from error


def class_counts(task: Task, answers: Mapping[str, NDArray[Any]]) -> dict[int, float]:
    """How much of each class was answered: the best class, pixels, or detections above
    `MIN_SCORE`."""
    if task is Task.CLASSIFICATION:
        return {int(answers["class_ids"].flat[0]): 1.0}
    if task is Task.SEGMENTATION:
        pixels = np.bincount(segmentation.decode_class_map(answers["class_map"].item()).ravel())
        return {int(i): float(pixels[i]) for i in np.flatnonzero(pixels)}
    ids = answers["class_ids"][(answers["scores"] > MIN_SCORE) & (answers["class_ids"] >= 0)]
    values, counts = np.unique(ids, return_counts=True)
    return {int(i): float(n) for i, n in zip(values, counts, strict=True)}
