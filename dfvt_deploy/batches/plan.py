"""What a run is, written down at its start: every image in its shard, and the record of the run;
and the answers of a shard as Parquet files."""

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import BadInput, DfvtError
from ..files import staged, write_text
from ..manifest import Count, Record, Verdict
from ..serving.tasks import Answer, served_task
from ..tasks.images import ImageError
from ..text_files import printable
from ..types import Task
from .images import arrow, image_names
from .options import BatchOptions

RECORD, PLAN = "batch.json", "plan.parquet"

#: The answer that holds COCO run-length encodings, as JSON.
_MASKS = "masks"

#: Images of a shard at most. A run that was killed repeats the shards that were under way.
_MOST_IMAGES = {Task.CLASSIFICATION: 500}
_MOST_IMAGES_OF_OTHERS = 50

#: Shards for each worker at least, as far as there are images.
_SHARDS_OF_WORKER = 4

#: Options that may change between the calls that make one run, as the answers do not.
_FREE = ("output", "exports", "workers", "address", "url", "in_flight", "export")


@dataclass(frozen=True)
class Shard:
    """Images that follow each other in the plan, the one of index `first` first.

    names: absolute paths, URLs, and `FILE.parquet#ROW` for a row with an image's bytes.
    refused: reasons by index, for images that are not tried again.
    """

    number: int
    first: int
    names: list[str]
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardTables:
    """A shard's answers and failures as Parquet files, which together have a row an image;
    `failures` is empty where there are none."""

    number: int
    images: int
    results: bytes
    failures: bytes


class BatchRecord(Record):
    """`batch.json`: the manifest of a run.

    settings: the options that the answers depend on, and a hash of the names of all images.
    file, sha256, verdict: of the model's file that runs, and what `validate` decided about it;
        None with --engine triton, as the server's repository records them.
    images, shards: how many; shard i is row group i of `plan.parquet`.
    finished, answered, failed: when the last shard was written, and the numbers of images that
        were in `results/` and in `failures/` then.
    """

    schema_version: int = 1
    command: str
    settings: dict[str, str]
    model: str
    task: Task
    file: str | None = None
    sha256: str | None = None
    verdict: Verdict | None = None
    labels: tuple[str, ...] = ()
    versions: dict[str, str]
    created: str
    images: Count = 0
    shards: Count = 0
    finished: str | None = None
    answered: Count = 0
    failed: Count = 0


@dataclass(frozen=True)
class Plan:
    """The images of a run in their shards, and the record, in the output folder."""

    folder: Path
    record: BatchRecord

    def tables(self, shard: int) -> tuple[Path, Path]:
        """A shard's results, which are there once it is done, and its failures, if it has any."""
        name = f"shard-{shard:06}.parquet"
        return self.folder / "results" / name, self.folder / "failures" / name

    def shards(self, *, pending: bool) -> Iterator[Shard]:
        """The shards, or those that are not done, read one at a time."""
        with arrow().parquet.ParquetFile(self.folder / PLAN) as file:
            for number in range(self.record.shards):
                if not (pending and self.tables(number)[0].is_file()):
                    rows = file.read_row_group(number).to_pydict()
                    yield Shard(number, rows["index"][0], rows["image"])


def open_plan(options: BatchOptions, record: BatchRecord, workers: int) -> Plan:
    """The plan that is in the output folder, which must be of the same run, or a new one. `record`
    is that of the run without its images. Raises BadInput where the input names no image, or the
    folder is of another run or holds other files."""
    folder, names = options.output, image_names(options.input, options.column)
    settings = {k: str(v) for k, v in vars(options).items() if k not in _FREE}
    settings["model file"] = str(record.sha256)
    if not (folder / RECORD).exists():
        others = [p.name for p in folder.iterdir() if p.name != PLAN and p.name[0] != "."]
        if others:
            raise BadInput(
                f"--output {folder} holds other files ({', '.join(sorted(others)[:3])}) and no "
                f"{RECORD}; give an empty or a new folder"
            )
        images, shards = _write_plan(folder, names, record.task, workers)
        settings["images"] = _digest(image_names(options.input, options.column))
        changes = {"settings": settings, "images": images, "shards": shards}
        record = record.model_copy(update=changes)
        write_text(folder / RECORD, record.as_text())
        return Plan(folder, record)
    earlier = BatchRecord.read(folder / RECORD, "give another --output", "schema_version")
    settings["images"] = _digest(names)
    for name, value in settings.items():
        if (found := earlier.settings.get(name)) != value:
            raise BadInput(
                f"{folder} is of a run with another {name}: {found}, not {value}; give another "
                f"--output, or go on with: {earlier.command}"
            )
    return Plan(folder, earlier)


def _write_plan(folder: Path, names: Iterator[str], task: Task, workers: int) -> tuple[int, int]:
    """Write the plan while the names come. Returns the number of images and of shards."""
    pa, images, shards = arrow(), 0, 0
    schema = pa.schema([("index", pa.int64()), ("image", pa.string())])
    most, parts = _MOST_IMAGES.get(task, _MOST_IMAGES_OF_OTHERS), workers * _SHARDS_OF_WORKER
    head = list(islice(names, most * parts))
    if not head:
        raise BadInput("the input names no image; give a folder, pattern, list or Parquet with one")
    names, size = chain(head, names), math.ceil(len(head) / parts)
    with (
        staged(folder / PLAN) as path,
        pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer,
    ):
        while rows := list(islice(names, size)):
            index = pa.array(range(images, images + len(rows)))
            writer.write_table(pa.table([index, rows], schema=schema))
            images, shards = images + len(rows), shards + 1
    return images, shards


def _digest(names: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0".encode())
    return digest.hexdigest()


class ShardRows:
    """The rows of a shard; each image that is tried is answered or fails once."""

    def __init__(self, shard: Shard, task: Task) -> None:
        self.shard, self.task = shard, task
        self.results: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []

    def answer(self, index: int, answers: Mapping[str, NDArray[Any]]) -> None:
        """Add an image's answers: a batch of one in the names and shapes of the ensemble."""
        self.results.append(self._image(index) | _cells(self.task, answers))

    def fail(self, index: int, error: Exception | str) -> None:
        """Add an image without answers, and why."""
        if isinstance(error, MemoryError):
            error = "this machine has too little memory for the image"
        elif not isinstance(error, (str, DfvtError, ImageError)):
            error = f"{type(error).__name__}: {error}"
        self.failures.append(self._image(index) | {"reason": printable(error)})

    def tables(self) -> ShardTables:
        """The rows, those of the refused images among them."""
        for index, reason in self.shard.refused.items():
            self.fail(int(index), reason)
        pa = arrow()
        image = [("index", pa.int64()), ("image", pa.string())]
        answers = [(answer.name, _arrow_type(answer)) for answer in columns(self.task)]
        results = _parquet(self.results, [*image, *answers])
        failures = _parquet(self.failures, [*image, ("reason", pa.string())])
        count = len(self.shard.names)
        return ShardTables(self.shard.number, count, results, failures if self.failures else b"")

    def _image(self, index: int) -> dict[str, Any]:
        return {"index": index, "image": self.shard.names[index - self.shard.first]}


def columns(task: Task) -> list[Answer]:
    """The answers of a task that become columns; of several a image, a column of lists."""
    served = served_task(task)
    left_out = (*served.on_request, served.row_count)
    return [answer for answer in served.answers if answer.name not in left_out]


def _arrow_type(answer: Answer) -> Any:
    pa, (_, *shape) = arrow(), answer.shape
    types = {"int32": pa.int32(), "float32": pa.float32(), "bytes": pa.binary()}
    of_one = types.get(answer.dtype, pa.string())
    if answer.name == _MASKS:
        of_one = pa.struct([("size", pa.list_(pa.int32(), 2)), ("counts", pa.string())])
    for side in shape[:0:-1]:
        of_one = pa.list_(of_one, side)
    return of_one if shape == [1] else pa.list_(of_one)


def _cells(task: Task, answers: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    served, cells = served_task(task), {}
    rows = int(answers[served.row_count].item()) if served.row_count else None
    for column in columns(task):
        value = answers[column.name][0]
        values = value[:rows].tolist() if column.name in served.scored else value.tolist()
        if column.dtype == "string":
            values = [text.decode() for text in values]
        if column.name == _MASKS:
            values = [json.loads(text) for text in values]
        cells[column.name] = values[0] if column.shape[1:] == (1,) else values
    return cells


def _parquet(rows: list[dict[str, Any]], fields: list[tuple[str, Any]]) -> bytes:
    pa, file = arrow(), io.BytesIO()
    rows.sort(key=lambda row: row["index"])
    table = pa.Table.from_pylist(rows, pa.schema(fields))
    pa.parquet.write_table(table, file, compression="zstd")
    return file.getvalue()
