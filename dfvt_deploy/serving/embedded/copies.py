"""How the copies of a network share the cores; copied beside the model.py of a backend."""

import fcntl
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: The C struct `flock` of Linux: type, whence, start, length, process.
_FLOCK = "hhlli"


class SharedCores:
    """The threads that a copy of a network uses: as many as its config allows while no other copy
    computes, else its share of the cores. More threads than cores would wait for each other.

    alone, shared: the threads of both cases; equal where the copies never need more than `cores`.

    A copy that computes holds a read lock on a byte of the model's file, which ends with its
    process. Several processes lock different bytes, so nobody waits.
    """

    def __init__(self, config: Mapping[str, Any], file: Path, threads: int, cores: int) -> None:
        groups = config["instance_group"]
        copies = sum(group["count"] for group in groups if group["kind"] == "KIND_CPU")
        self.alone = threads
        self.shared = min(threads, max(1, cores // max(1, copies)))
        self._file = os.open(file, os.O_RDONLY)

    @contextmanager
    def threads(self) -> Iterator[int]:
        """The threads to compute with now; within the context, other copies see this one."""
        if self.alone == self.shared:
            yield self.alone
            return
        fcntl.lockf(self._file, fcntl.LOCK_SH, 1, os.getpid())
        try:
            yield self.shared if self._others_compute() else self.alone
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, os.getpid())

    def _others_compute(self) -> bool:
        whole_file = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        conflict = fcntl.fcntl(self._file, fcntl.F_GETLK, whole_file)
        return struct.unpack(_FLOCK, conflict)[0] != fcntl.F_UNLCK
