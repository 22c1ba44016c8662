"""Results of single images in an SQLite database, so that an interrupted run goes on.

The database's name is a hash of what the results depend on beside the images: the files of the
model, the stages and the server. A row is found by its image's id and by a digest of the image's
file and truth, so runs on more or fewer images share results.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from ..compare.agreement import Agreement
from ..errors import ArtifactError, StageFailed
from ..manifest import Record
from .results import Unjudged

#: An image's id and its digest; see `run.sample_digest`.
Key = tuple[str, str]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    image BLOB, digest TEXT, result TEXT NOT NULL, PRIMARY KEY (image, digest)
) WITHOUT ROWID
"""


class StageRecord(Record):
    """One image at one stage: how much of each class id was answered, the agreement with the stage
    before it (None for the reference) and with the reference (None where that is the stage before
    it), and the metric's result, where the image has a truth."""

    classes: dict[int, float]
    milliseconds: float
    step: Agreement | None = None
    total: Agreement | None = None
    result: dict[str, Any] | None = None


class ImageRecord(Record):
    """One image at all stages, or the refusal that ended its way."""

    stages: dict[str, StageRecord] = Field(default_factory=dict)
    refused: Unjudged | None = None


class ResultStore:
    """The results of one database, which survive the end of the process. Raises ArtifactError where
    it is damaged, StageFailed where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> "ResultStore":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(self.path, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        try:
            # With a write-ahead log and this level, a killed process loses nothing it committed.
            self._execute("PRAGMA journal_mode = wal")
            self._execute("PRAGMA synchronous = normal")
            ((state,),) = self._execute("PRAGMA quick_check(1)")
            if state != "ok":
                raise self.damaged(" ".join(state.split()))
            self._execute(_SCHEMA)
        except BaseException:
            self._database.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        assert self._database is not None
        self._database.close()

    def __contains__(self, key: Key) -> bool:
        return bool(self._execute("SELECT 1 FROM results WHERE image = ? AND digest = ?", key))

    def append(self, key: Key, record: ImageRecord) -> None:
        """Store the result of an image."""
        # pydantic writes no NaN and no file name that is not UTF-8; both occur in results.
        text = json.dumps(record.model_dump(exclude_none=True))
        self._execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", key, text)

    def read(self, keys: Sequence[Key]) -> Iterator[tuple[str, ImageRecord]]:
        """Image ids and their results in the order of the keys, one at a time."""
        for key in keys:
            rows = self._execute("SELECT result FROM results WHERE image = ? AND digest = ?", key)
            try:
                ((text,),) = rows
                yield key[0], ImageRecord.model_validate(json.loads(text))
            except (ValueError, TypeError) as error:
                first = str(error).partition("\n")[0]
                raise self.damaged(f"result of {key[0]}: {first}") from error

    def _execute(self, statement: str, key: Key | None = None, *more: str) -> list[tuple[Any, ...]]:
        assert self._database is not None
        # An id may hold bytes of a file name that are not UTF-8, which SQLite's text refuses.
        values = () if key is None else (key[0].encode(errors="surrogatepass"), key[1], *more)
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except sqlite3.DatabaseError as error:
            raise self.damaged(error) from error

    def _unusable(self, error: sqlite3.OperationalError) -> StageFailed:
        return StageFailed(f"{self.path} cannot be used: {error}")

    def damaged(self, what: object) -> ArtifactError:
        """The error to raise where what was stored cannot be what this program wrote."""
        return ArtifactError(f"{self.path} is damaged ({what}); start over with --fresh")


def remove_store(path: Path) -> None:
    """Delete a database with the files that SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def digest_of(document: Any) -> str:
    """Hex SHA-256 of plain data."""
    text = json.dumps(document, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
