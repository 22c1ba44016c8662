"""Files and folders that are replaced whole or not at all, locks, hashes, and the cache folder.

A new file or folder is written in a hidden folder beside its final place, `.NAME.XXX.part`, written
to the disk, and renamed. Its process holds a lock on that folder, so that another process can tell
what a killed one left behind.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import BadInput

_PART = ".part"

#: Arguments of Linux's renameat2: paths are relative to the working directory; swap the two.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of(document: Any) -> str:
    """The SHA-256 of plain data, in hexadecimal digits."""
    text = json.dumps(document, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def cache_directory() -> Path:
    """`$DFVT_DEPLOY_CACHE`, else `dfvt-deploy` in the user's cache; BadInput without a home."""
    if chosen := os.environ.get("DFVT_DEPLOY_CACHE"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "dfvt-deploy"
    try:
        return Path.home() / ".cache" / "dfvt-deploy"
    except RuntimeError:
        raise BadInput(
            "this user has no home directory for a cache; set DFVT_DEPLOY_CACHE to a folder"
        ) from None


def check_output_folder(folder: Path, option: str) -> None:
    """Check that a folder, named by an option, exists or can be made, before work is done for it.
    Raises BadInput where it or one above it is a file, or no file may be written there."""
    for path in (folder, *folder.absolute().parents):
        if path.is_dir():
            if not os.access(path, os.W_OK | os.X_OK):
                raise BadInput(f"{option} {folder}: no file may be written in {path}")
            return
        if path.exists() or path.is_symlink():
            raise BadInput(f"{option} {folder}: {path} is not a folder; give another one")


def check_utf8(path: Path, option: str) -> None:
    """Raise BadInput for a path that is not UTF-8: onnxruntime and manifests take no other."""
    if any("\ud800" <= character <= "\udfff" for character in str(path)):
        raise BadInput(f"{option} {path} is not UTF-8, which a manifest cannot name; rename it")


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A file in a hidden folder beside `path` to write to; it takes the place of `path` when the
    block ends without an exception, else it is removed and `path` stays as it was."""
    with staging_directory(path) as folder:
        temporary = folder / path.name
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file whole or not at all."""
    with staged(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def staging_directory(target: Path) -> Iterator[Path]:
    """An empty hidden folder beside `target` for files that will be renamed from there. It is
    removed at the end of the block with what is left in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    handle, folder = _locked_folder(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """A copy of a folder to change; it takes the place of `target` in one step when the block ends
    without an exception. It is empty where `target` does not exist. The files of the copy are hard
    links to those of `target`: rename new files over them, and write into none. The caller must
    hold the lock of `target`'s parent."""
    aside = target.with_name(f".{target.name}.old")
    # A process was killed where folders cannot be swapped.
    if aside.exists() and not target.exists():
        aside.rename(target)
    with staging_directory(target) as staging:
        folder = staging / target.name
        if target.exists():
            shutil.copytree(target, folder, symlinks=True, copy_function=link_or_copy)
        else:
            folder.mkdir()
        yield folder
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() or (path.is_file() and path.stat().st_nlink == 1):
                sync(path)
        if not target.exists():
            folder.rename(target)
        elif not _exchange(folder, target):
            target.rename(aside)
            folder.rename(target)
            shutil.rmtree(aside)
        sync(target.parent)


@contextmanager
def locked(directory: Path, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a folder and wait while another process has it; `shared` lets others hold it
    too, if they also share it. Without `wait`, BlockingIOError is raised instead of waiting."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _locked_folder(target: Path) -> tuple[int, Path]:
    """A new hidden folder beside `target`, and the handle that holds its lock."""
    umask = os.umask(0)
    os.umask(umask)
    while True:  # Another process may remove the new folder before it is locked.
        folder = Path(tempfile.mkdtemp(_PART, f".{target.name}.", target.parent))
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                folder.chmod(0o777 & ~umask)
                return handle, folder
            os.close(handle)


def _remove_abandoned(target: Path) -> None:
    """Remove hidden folders for `target` whose process is no more."""
    prefix = f".{target.name}."
    for name in os.listdir(target.parent):  # noqa: PTH208  of a folder with many files
        if not (name.startswith(prefix) and name.endswith(_PART)):
            continue
        with suppress(OSError):  # Another process was faster, or it belongs to another user.
            folder = target.with_name(name)
            handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def link_or_copy(source: str, target: str) -> None:
    """A hard link to a file, or a copy where the file system has no hard links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = os.fsencode(first), os.fsencode(second)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
