"""Results of single images, stored as they come, so that an interrupted run goes on.

One JSON document a line, in a file whose name is a hash of what the results depend on beside the
images: the files of the model, the hops, the server. What a line depends on of its image (file
size and time, truth) is in the line, so that more images, or fewer, reuse what is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..errors import ArtifactError


def digest_of(document: Any) -> str:
    """Hex SHA-256 of plain data."""
    text = json.dumps(document, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class ResultStore:
    """Results by image, appended to one file and flushed one by one.

    A last line that a killed process left unfinished is dropped on opening. Only the places of
    the lines are held in memory.

    Raises (on entering):
        ArtifactError: the file is damaged elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[tuple[str, str], int] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> ResultStore:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            self._file.truncate(self._find_lines(self._file))
        except BaseException:
            self._file.close()
            raise
        return self

    def _find_lines(self, file: IO[bytes]) -> int:
        """Where the last whole line ends."""
        file.seek(0)
        end = 0
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                self._places[entry["id"], entry["digest"]] = end
            except (ValueError, KeyError, TypeError) as error:
                raise ArtifactError(
                    f"{self.path} line {number} is damaged ({error}); start over with --fresh"
                ) from error
            end += len(line)
        return end

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        self._file.close()

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Whether there is a result for an image's id and digest."""
        return key in self._places

    def append(self, image: str, digest: str, result: Mapping[str, Any]) -> None:
        """Store an image's result; it survives the process from here on."""
        assert self._file is not None
        line = json.dumps({"id": image, "digest": digest, **result}).encode() + b"\n"
        place = self._file.seek(0, 2)
        self._file.write(line)
        self._file.flush()
        self._places[image, digest] = place

    def read(self, keys: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """The results of images in this order, one by one."""
        assert self._file is not None
        for key in keys:
            self._file.seek(self._places[key])
            yield json.loads(self._file.readline())
