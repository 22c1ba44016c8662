"""What a run is, written down at its start: every image in its shard, and the record of the run."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from pydantic import ValidationError

from ..errors import BadInput
from ..files import staged, write_text
from ..json_files import read_json
from ..manifest import Count, Record, Verdict
from ..types import Task
from .images import image_names
from .options import BatchOptions
from .shards import Shard, arrow

RECORD, PLAN = "batch.json", "plan.parquet"

#: Images of a shard at most. A run that was killed repeats the shards that were under way.
_MOST_IMAGES = {Task.CLASSIFICATION: 500}
_MOST_IMAGES_OF_OTHERS = 50

#: Shards for each worker at least, as far as there are images.
_SHARDS_OF_WORKER = 4

#: Options that may change between the calls that make one run, as the answers do not.
_FREE = ("output", "exports", "workers", "address", "url", "in_flight", "export")


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

    def write(self, folder: Path) -> None:
        write_text(folder / RECORD, self.model_dump_json(indent=2) + "\n")


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
        record.write(folder)
        return Plan(folder, record)
    earlier = _read(folder / RECORD)
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


def _read(path: Path) -> BatchRecord:
    with suppress(ValidationError):
        return BatchRecord.model_validate(read_json(path))
    raise BadInput(f"{path} is not the record of a run of this release; give another --output")
