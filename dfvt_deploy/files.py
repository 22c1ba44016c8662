"""Files written whole or not at all, their hashes, and where downloads and caches are kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_directory() -> Path:
    """`$DFVT_DEPLOY_CACHE`, else `dfvt-deploy` in the user's cache directory."""
    if chosen := os.environ.get("DFVT_DEPLOY_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dfvt-deploy"


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes `path`'s place when the block ends well.

    An exception in the block removes it and leaves `path` as it was. What a killed process left
    is removed by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def staging_directory(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` for what will be renamed into it; removed at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_prefix(target)) as name:
        yield Path(name)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a folder's lock; another process that wants it waits. It ends with the process."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _prefix(target: Path) -> str:
    return f".{target.name}.{os.getpid()}."


def _remove_abandoned(target: Path) -> None:
    """Temporary files and folders for `target` whose process is no more."""
    for path in target.parent.glob(f".{target.name}.*"):
        owner = path.name.removeprefix(f".{target.name}.").split(".")[0]
        if not owner.isdigit() or _runs(int(owner)):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole or not at all."""
    with staged(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
