"""Images through the stages, one by one; the result of each is stored at once in an SQLite
database, so that an interrupted run goes on.

The database's name is a hash of what the results depend on beside the images: the files of the
model, the stages and the server. A row is found by a digest of its image's id, file and truth, so
runs on more or fewer images share results.
"""

import json
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from ..compare import comparison_of
from ..compare.agreement import Agreement
from ..cores import usable_cores
from ..errors import ArtifactError, BadInput, DfvtError, MissingDependency, StageFailed
from ..files import digest_of
from ..manifest import Record
from ..pipeline import Pipeline
from ..progress import image_bar
from ..runners import InferenceFailed
from ..tasks.images import ImageError
from .build_stages import Stages
from .datasets.sample import Sample
from .metrics import Metric
from .results import Unjudged
from .stages import Stage, StageOutputs

_TABLE = "images (digest TEXT PRIMARY KEY, result TEXT NOT NULL) WITHOUT ROWID"


class StageRecord(Record):
    """One image at one stage: how much of each class id was answered, the agreement with the stage
    before it (None for the reference) and with the reference (None where that is the stage before
    it), and the metric's result, where the image has a truth."""

    classes: dict[int, int]
    milliseconds: float
    step: Agreement | None = None
    total: Agreement | None = None
    result: dict[str, Any] | None = None


class ImageRecord(Record):
    """One image at all stages, or the refusal that ended its way."""

    stages: dict[str, StageRecord] = Field(default_factory=dict)
    refused: Unjudged | None = None


class ResultStore:
    """The results of one database, which survive the end of the process, by the digest of their
    image. Raises ArtifactError where it is damaged, StageFailed where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "ResultStore":
        with self._translated():
            self._database = sqlite3.connect(self.path, isolation_level=None)
        try:
            # With a write-ahead log and this level, a killed process loses nothing it committed.
            self._execute("PRAGMA journal_mode = wal")
            self._execute("PRAGMA synchronous = normal")
            ((state,),) = self._execute("PRAGMA quick_check(1)")
            if state != "ok":
                raise self.damaged(" ".join(state.split()))
            self._execute(f"CREATE TABLE IF NOT EXISTS {_TABLE}")
        except BaseException:
            self._database.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def __contains__(self, digest: str) -> bool:
        return bool(self._execute("SELECT 1 FROM images WHERE digest = ?", digest))

    def append(self, digest: str, record: ImageRecord) -> None:
        """Store the result of an image."""
        # pydantic writes no NaN and no file name that is not UTF-8; both occur in results.
        text = json.dumps(record.model_dump(exclude_none=True))
        self._execute("INSERT OR REPLACE INTO images VALUES (?, ?)", digest, text)

    def read(self, digests: Mapping[str, str]) -> Iterator[tuple[str, ImageRecord]]:
        """The ids of images and their results, one at a time, from the digests by id."""
        for image, digest in digests.items():
            rows = self._execute("SELECT result FROM images WHERE digest = ?", digest)
            try:
                ((text,),) = rows
                yield image, ImageRecord.model_validate(json.loads(text))
            except (ValueError, TypeError) as error:
                first = str(error).partition("\n")[0]
                raise self.damaged(f"result of {image}: {first}") from error

    def _execute(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with self._translated():
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StageFailed(f"{self.path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise self.damaged(error) from error

    def damaged(self, what: object) -> ArtifactError:
        """The error to raise where what was stored cannot be what this program wrote."""
        return ArtifactError(f"{self.path} is damaged ({what}); start over with --fresh")


def remove_store(path: Path) -> None:
    """Delete a database with the files that SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class ImageRefused(Exception):
    """A stage cannot answer an image."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason


@dataclass(frozen=True)
class Prepared:
    """An image that was read and preprocessed; or `refused`, why it could not be."""

    sample: Sample
    digest: str
    image: StageOutputs | None = None
    refused: str = ""


def sample_digest(sample: Sample) -> str:
    """A digest of what an image's result depends on: the file's size and time, and the truth."""
    stats = []
    for file in filter(None, (sample.path, getattr(sample.truth, "path", None))):
        try:
            found = file.stat()
            stats.append((found.st_size, found.st_mtime_ns))
        except OSError:
            stats.append((-1, -1))
    return digest_of([sample.id, stats, repr(sample.truth)])[:16]


def run_stages(
    stages: Stages, samples: Sequence[Sample], metric: Metric | None, store: ResultStore
) -> dict[str, str]:
    """Pass every image that has no stored result through the stages, and store its result. Decoding
    and preprocessing run in threads and only a few images ahead, so memory does not grow with the
    number of images. Returns the digests of the samples by id, in their order; an image
    that changes during the run has the digest that it had when it was read. Raises DfvtError where
    a stage cannot go on, such as a server that no longer answers."""
    digests = {sample.id: sample_digest(sample) for sample in samples}
    left = [sample for sample in samples if digests[sample.id] not in store]
    workers = stages.options.workers or min(4, usable_cores())
    with image_bar("images", len(samples), len(samples) - len(left)) as advance:
        for prepared in _prepared_ahead(left, stages.pipeline, workers):
            digests[prepared.sample.id] = prepared.digest
            store.append(prepared.digest, _record(stages.made, prepared, metric))
            advance()
    return digests


def stage_outputs(
    stages: Sequence[Stage], prepared: Prepared
) -> Iterator[tuple[Stage, StageOutputs, float]]:
    """Yield each stage, its outputs and its milliseconds; ImageRefused where one has no answer."""
    if prepared.image is None:
        raise ImageRefused("decoding", prepared.refused)
    done: dict[str | None, StageOutputs] = {None: prepared.image}
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


def prepare(sample: Sample, pipeline: Pipeline) -> Prepared:
    """Read, decode and preprocess an image."""
    digest = sample_digest(sample)
    try:
        encoded = sample.path.read_bytes()
        return Prepared(sample, digest, StageOutputs(encoded, pipeline.read(encoded)))
    except OSError as error:
        return Prepared(sample, digest, refused=f"cannot be read: {error.strerror}")
    except ImageError as error:
        return Prepared(sample, digest, refused=str(error))


def _prepared_ahead(
    samples: Sequence[Sample], pipeline: Pipeline, workers: int
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


def _record(stages: Sequence[Stage], prepared: Prepared, metric: Metric | None) -> ImageRecord:
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
                if stage.source != reference or stage.part == "inputs":
                    total = stage.compare_total(done[reference], outputs)
            if metric is not None:
                try:
                    result = metric.image_result(outputs.answers, prepared.sample)
                except MissingDependency:
                    raise
                except StageFailed as error:
                    raise ImageRefused(stage.name, str(error)) from error
            records[stage.name] = StageRecord(
                classes=dict(comparison_of(stage.task).class_counts(outputs.answers)),
                milliseconds=round(milliseconds, 3),
                step=step,
                total=total,
                result=result,
            )
    except ImageRefused as refused:
        return ImageRecord(refused=Unjudged(image=prepared.sample.id, **vars(refused)))
    return ImageRecord(stages=records)
