"""The key to the part of Triton's API that steers the server.

Triton takes the key on its command line, which every user of the machine can read. So the command
line holds a placeholder, with line breaks that no request can send in a header, and the key takes
its place in the memory of the running process. `serve` makes a key for itself where the user gives
none.
"""

import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import BadInput, ServerFailed
from .ports import LOOPBACK

#: The header that carries the key.
HEADER = "dfvt-admin"

#: Parts of the API that change the server or its memory.
_STEERING = ("model-repository", "shared-memory", "trace", "logging")

#: Parts that reveal how models are set up and used, which this machine's users may read.
_REVEALING = ("model-config", "statistics")


def read_key(path: Path) -> str:
    """The key in a file; a file that does not exist is made, with a new key. Raises BadInput where
    the file cannot be read, others can read it too, or it holds no key."""
    try:
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise BadInput(f"--admin-key-file {path} can be read by others; run: chmod 600 {path}")
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--admin-key-file {path} cannot be used: {error}") from error
    if not re.fullmatch(r"[A-Za-z0-9_-]{20,200}", key):
        raise BadInput(
            f"--admin-key-file {path} must hold one key of 20 to 200 letters, digits, '_' and '-'"
        )
    return key


def placeholder(length: int = 43) -> str:
    """A value that no header can have, of the length of the key that will take its place."""
    return ("\n\n" + secrets.token_urlsafe(length))[:length]


def restrictions(host: str, value: str) -> list[str]:
    """Triton's options that close the steering part of its API, and elsewhere than on the loopback
    address the revealing part too."""
    closed = ",".join(_STEERING if host == LOOPBACK else (*_STEERING, *_REVEALING))
    return [
        f"--http-restricted-api={closed}:{HEADER}={value}",
        f"--grpc-restricted-protocol={closed}:{HEADER}={value}",
    ]


def replace_in_memory(pid: int, old: str, new: str) -> None:
    """Replace a text in the memory of a process that this one has started. Raises ServerFailed
    where the text is not there, or the system does not allow it."""
    before, after = old.encode(), new.encode()
    assert len(before) == len(after)
    count = 0
    try:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            for start, end in _data_areas(maps):
                memory.seek(start)
                content = memory.read(end - start)
                at = content.find(before)
                while at >= 0:
                    memory.seek(start + at)
                    memory.write(after)
                    count += 1
                    at = content.find(before, at + 1)
    except OSError as error:
        raise ServerFailed(f"the key cannot be given to Triton: {error}") from error
    if not count:
        raise ServerFailed("the key cannot be given to Triton: its memory does not hold the option")


def _data_areas(maps: list[str]) -> Iterator[tuple[int, int]]:
    """Start and end of the writable areas of /proc/<pid>/maps that belong to no file; the command
    line is in that of the stack, which is left out."""
    for line in maps:
        addresses, rights, _offset, _device, inode, *name = line.split(maxsplit=5)
        if rights.startswith("rw") and inode == "0" and name in ([], ["[heap]"]):
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)
