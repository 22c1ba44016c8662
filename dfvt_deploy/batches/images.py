"""The images that INPUT names, one name after the other, and the bytes of each."""

import glob
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import BadInput, MissingDependency, StageFailed
from ..image_files import SUFFIXES
from ..text_files import read_lines

_PARQUET = ".parquet"
_ROW = re.compile(r"(.+\.parquet)#([0-9]+)", re.DOTALL)

#: Rows of a Parquet file that are held at a time.
_ROWS_AT_ONCE = 8


def arrow() -> Any:
    """The package pyarrow with its Parquet part, imported when it is first needed."""
    import pyarrow.parquet

    return pyarrow


def image_names(text: str, column: str | None) -> Iterator[str]:
    """The names of the images of INPUT, as `Shard` has them, in an order that does not change. A
    folder stands for the images and Parquet files in it and below it; hidden files are left out,
    and links to folders are not followed. A list that names a file twice gives it once. Raises
    BadInput where INPUT names nothing that can be read, or a name is not UTF-8."""
    for name in _files(text):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise BadInput(f"the name {name!r} is not UTF-8, as tables need; rename it") from None
        if name.lower().endswith(_PARQUET):
            yield from _names_in_parquet(name, column)
        else:
            yield name


def _files(text: str) -> Iterator[str]:
    if "://" in text:
        yield from _remote_files(text)
    elif (path := Path(text).absolute()).is_dir():
        yield from _in_folder(path)
    elif path.exists():
        lines = read_lines(path, "list of images") if path.suffix == ".txt" else [text]
        yield from dict.fromkeys(map(_whole, filter(str.strip, lines)))
    elif glob.has_magic(text):
        found = map(_whole, sorted(glob.glob(text, recursive=True)))  # noqa: PTH207
        yield from filter(os.path.isfile, found)
    else:
        raise BadInput(f"input {text} does not exist; give a folder, a pattern, a list or Parquet")


def _remote_files(url: str) -> Iterator[str]:
    store, path = _store(url)
    try:
        if url.endswith(".txt"):
            lines = store.cat_file(path).decode().splitlines()
            yield from dict.fromkeys(line for line in lines if line.strip())
            return
        pattern = glob.has_magic(path) and not store.exists(path)
        found = store.glob(path) if pattern else store.find(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"input {url} cannot be read: {error}") from error
    for each in sorted(found):
        if pattern or each == path or each.lower().endswith((*SUFFIXES, _PARQUET)):
            yield store.unstrip_protocol(each)


def _in_folder(folder: Path) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        raise BadInput(f"folder {error.filename} cannot be read: {error.strerror}") from error

    for directory, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith((*SUFFIXES, _PARQUET)):
                yield f"{directory}/{name}"


def _names_in_parquet(file: str, column: str | None) -> Iterator[str]:
    """A name for each row: its own where the column has bytes, else what the column says."""
    with _parquet_file(file) as parquet:
        name, holds_bytes = _column(file, parquet.schema_arrow, column)
        if holds_bytes:
            yield from (f"{file}#{row}" for row in range(parquet.metadata.num_rows))
            return
        for batch in parquet.iter_batches(columns=[name]):
            for path in _leaf(batch).to_pylist():
                if not path:
                    raise BadInput(f"{file}: column {name} has a row without a path; remove it")
                yield _whole(path)


def _column(file: str, schema: Any, wanted: str | None) -> tuple[str, bool]:
    """The column of images, as `image.bytes` within a struct, and whether it holds bytes."""
    types, leaves = arrow().types, dict[str, str]()
    for field in schema:
        inner = list(field.type) if types.is_struct(field.type) else []
        leaves |= {f"{field.name}.{each.name}": str(each.type) for each in inner}
        leaves |= {} if inner else {field.name: str(field.type)}
    binary = [name for name, kind in leaves.items() if kind in ("binary", "large_binary")]
    able = [*binary, *(name for name, kind in leaves.items() if kind in ("string", "large_string"))]
    found = [name for name in able if name == wanted] if wanted else binary or able
    if len(found) != 1:
        what = f"no column {wanted} of bytes or paths" if wanted else "not one column of images"
        raise BadInput(f"{file} has {what}; give --column one of: {', '.join(able) or 'none fits'}")
    return found[0], found[0] in binary


def read_images(
    names: Sequence[str], column: str | None, max_bytes: int
) -> Iterator[bytes | BadInput]:
    """The encoded bytes of each image, or why they cannot be read, one at a time. Raises
    StageFailed where an object store fails, which is no fault of an image."""
    for file, group in groupby(names, key=lambda name: (_ROW.fullmatch(name) or [name, ""])[1]):
        if not file:
            yield from (_read(name, max_bytes) for name in group)
            continue
        rows, given = [int(name.rpartition("#")[2]) for name in group], 0
        try:
            for data in _rows(file, rows, column):
                given += 1
                yield BadInput("the row holds nothing") if data is None else data
        except Exception as error:  # what pyarrow raises for a damaged page has no common base
            yield from (BadInput(f"{file} cannot be read: {error}") for _ in rows[given:])


def _read(name: str, max_bytes: int) -> bytes | BadInput:
    remote = "://" in name
    try:
        if remote:
            store, path = _store(name)
            return store.cat_file(path, start=0, end=max_bytes + 1)
        status = Path(name).stat()
        if not stat.S_ISREG(status.st_mode):
            return BadInput("image is not a regular file")
        if status.st_size > max_bytes:
            size = f"{status.st_size:,} bytes, the limit is {max_bytes:,}"
            return BadInput(f"image has {size}; give a smaller file or raise --max-bytes")
        return Path(name).read_bytes()
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        if remote and not isinstance(error, (FileNotFoundError, PermissionError)):
            raise StageFailed(f"{name}: {error}; the same command goes on from here") from error
        return BadInput(f"image cannot be read: {getattr(error, 'strerror', None) or error}")


def _rows(file: str, rows: Sequence[int], column: str | None) -> Iterator[bytes | None]:
    """The bytes in ascending rows of a Parquet file."""
    with _parquet_file(file) as parquet:
        name, _ = _column(file, parquet.schema_arrow, column)
        end, wanted = 0, set(rows)
        for group in range(parquet.num_row_groups):
            at, end = end, end + parquet.metadata.row_group(group).num_rows
            if wanted.isdisjoint(range(at, end)):
                continue
            for batch in parquet.iter_batches(_ROWS_AT_ONCE, [group], [name]):
                for i in sorted(wanted.intersection(range(at, at + len(batch)))):
                    yield _leaf(batch)[i - at].as_py()
                at += len(batch)
                if at > rows[-1]:
                    return


def _leaf(batch: Any) -> Any:
    """The only column of a batch, out of the struct that it may be in."""
    column = batch.column(0)
    return column.flatten()[0] if arrow().types.is_struct(column.type) else column


@contextmanager
def _parquet_file(name: str) -> Iterator[Any]:
    """A Parquet file that is read in pieces; BadInput where it is none."""
    pa, (store, path) = arrow(), _store(name)
    try:
        with store.open(path, "rb") as file:
            yield pa.parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput(f"{name} cannot be read as Parquet: {error}") from error


def _whole(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)  # noqa: PTH100


def _store(name: str) -> tuple[Any, str]:
    """The file system of fsspec for a URL or a path, and the path in it."""
    from fsspec.core import url_to_fs

    try:
        store, path = url_to_fs(name)
    except ImportError as error:
        raise MissingDependency(str(error), "remote") from None
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from None
    return store, path
