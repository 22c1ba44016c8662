"""A shard: numbered images that are answered together, and their answers as Parquet files."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ..errors import DfvtError
from ..serving.tasks import Answer, served_task
from ..tasks.images import ImageError
from ..text_files import printable
from ..types import Task

#: The answer that holds COCO run-length encodings, as JSON.
_MASKS = "masks"


def arrow() -> Any:
    """The package pyarrow with its Parquet part, imported when it is first needed."""
    import pyarrow.parquet

    return pyarrow


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

    @property
    def tried(self) -> Iterator[tuple[int, str]]:
        """Index and name of the images that are not refused."""
        images = enumerate(self.names, self.first)
        return ((index, name) for index, name in images if str(index) not in self.refused)


@dataclass(frozen=True)
class ShardTables:
    """A shard's answers and failures as Parquet files, which together have a row an image;
    `failures` is empty where there are none."""

    number: int
    images: int
    results: bytes
    failures: bytes


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
