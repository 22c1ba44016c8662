"""A server's log: kept for its reasons, and shown while it is written."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import BinaryIO

#: The file starts again at this size, since what is shown is kept by whoever watches.
_KEPT_BYTES = 16 * 2**20


class ShownLog:
    """A pipe whose lines go to standard error and to a file that does not grow without end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        reader, self._writer = os.pipe()
        self._thread = threading.Thread(
            target=self._copy, args=(os.fdopen(reader, "rb"),), daemon=True
        )
        self._thread.start()

    def fileno(self) -> int:
        """What a process writes its log to."""
        return self._writer

    def started(self) -> None:
        """The process has the pipe; without this, its end would never be seen."""
        os.close(self._writer)
        self._writer = -1

    def close(self) -> None:
        """Wait for the last lines."""
        if self._writer >= 0:
            self.started()
        self._thread.join(timeout=5)

    def _copy(self, reader: BinaryIO) -> None:
        with reader, self._file as file:
            for line in reader:
                if file.tell() > _KEPT_BYTES:
                    file.seek(0)
                    file.truncate()
                file.write(line)
                file.flush()
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
