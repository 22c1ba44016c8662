"""The log of a server: kept in a file, shown while it is written, and read for reasons."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

#: A shown log's file starts again at this size, since what is shown is kept by whoever watches.
_KEPT_BYTES = 16 * 2**20

#: A line that begins a message: severity, date and time, process, place in the source.
_MESSAGE = re.compile(r"^([IWEF])\d{4} [\d:.]+ \d+ [\w.]+:\d+\] ?(.*)$")
_FAILED = re.compile(
    r"(?:failed to load|Poll failed for model directory) '([^']+)'(?: version \d+)?: (.*)"
)


class ServerLog:
    """The log file of a server, whose process may be started several times; emptied, and its folder
    made. With `show` the log also goes to standard error, and the file keeps the latest part."""

    def __init__(self, path: Path, *, show: bool = False) -> None:
        self.path = path
        self.show = show
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        self._start = 0
        self._thread = threading.Thread()

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """A file descriptor for a new process, which is started in the block, to write to."""
        self._start = self.path.stat().st_size
        if self.show:
            reader, writer = os.pipe()
            source = os.fdopen(reader, "rb")
            self._thread = threading.Thread(target=self._copy, args=(source,), daemon=True)
            self._thread.start()
        else:
            writer = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            yield writer
        finally:
            os.close(writer)

    def close(self) -> None:
        """Wait for the last lines of the process, which has ended."""
        if self._thread.ident:
            self._thread.join(timeout=5)

    def failures(self) -> dict[str, str]:
        """Why models were not loaded, by the model's name, in a line each."""
        found: dict[str, str] = {}
        for severity, text in self._messages():
            if severity == "E" and (match := _FAILED.search(text)):
                found.setdefault(Path(match[1]).name, match[2].strip().strip('"'))
        return found

    def about(self, model: str) -> str:
        """The first error that names a model; where the log is, if there is none."""
        named = re.compile(rf"(?<![\w-]){re.escape(model)}(?![\w-])")
        found = (t for severity, t in self._messages() if severity == "E" and named.search(t))
        return next(found, f"see {self.path}").strip('"')

    def last_line(self) -> str:
        """The last error of the present process, else its last line, for a message."""
        lines = self._text().strip().splitlines()
        errors = [line for line in lines if line.startswith("E") or "error" in line.lower()]
        return f"its log says: {(errors or lines or ['nothing'])[-1].strip()[:400]}"

    def _text(self) -> str:
        with self.path.open("rb") as file:
            file.seek(self._start)
            return file.read().decode(errors="replace")

    def _messages(self) -> list[tuple[str, str]]:
        """Severity and text of each message of the present process, in one line each."""
        found: list[tuple[str, str]] = []
        for line in self._text().splitlines():
            if match := _MESSAGE.match(line):
                found.append((match[1], match[2]))
            elif found and not line.startswith(("+", "|")):
                found[-1] = found[-1][0], f"{found[-1][1]} {line}"
        return [(severity, " ".join(text.split())) for severity, text in found]

    def _copy(self, reader: BinaryIO) -> None:
        with reader, self.path.open("ab") as file:
            for line in reader:
                if file.tell() > _KEPT_BYTES:
                    file.truncate(0)
                    self._start = 0
                file.write(line)
                file.flush()
                with contextlib.suppress(OSError, ValueError):  # standard error was closed
                    sys.stderr.buffer.write(line)
                    sys.stderr.buffer.flush()
