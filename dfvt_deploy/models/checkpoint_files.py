"""Reading what a checkpoint file holds, by how the file begins and never by its name.

`torch.save` writes zip archives, and wrote another format before PyTorch 1.6. One parser, Python's
`zipfile`, decides what an archive holds: `torch.load` would hand some to the TorchScript loader.

Values are read later and one tensor at a time, so that a file is judged by its shapes before
memory is taken for it.
"""

import io
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

from .inert_pickle import Entries, Name, Storage, read_pickle
from .stored_tensor import Content, Damaged, Place, Weight, shown, stored_weight

#: The most bytes of a pickle, the tensors not counted. The log of a long training takes megabytes.
MAX_PICKLE_BYTES = 128 * 2**20

#: The most bytes of an archive's directory, which is enough for 40,000 records.
_MAX_DIRECTORY_BYTES = 4 * 2**20


def read_zip(path: Path) -> Content:
    """Check every record of an archive, and read its pickle. Raises Damaged where it is not as
    `torch.save` writes archives, a TorchScript program, or damaged, and OSError, ValueError,
    LookupError or struct.error where it is damaged."""
    try:
        with path.open("rb") as file:
            _check_directory(file, path.stat().st_size)
            with zipfile.ZipFile(file) as archive:
                records = _records(archive, path.stat().st_size)
                if (broken := archive.testzip()) is not None:
                    raise Damaged(f"its record {shown(broken)} is damaged: its checksum is another")
                order = archive.read(records["byteorder"]) if "byteorder" in records else b"little"
                if order not in (b"little", b"big"):
                    raise Damaged("its byte order is neither little nor big")
                top = read_pickle(io.BytesIO(archive.read(records["data.pkl"])))
            places = {
                name.removeprefix("data/"): Place(
                    path, _data_offset(file, record), record.file_size, order == b"big"
                )
                for name, record in records.items()
                if name.startswith("data/")
            }
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise Damaged(f"it is damaged ({error})") from error
    return Content(top, lambda tensor: stored_weight(tensor, places))


def _check_directory(file: io.BufferedReader, size: int) -> None:
    """Check the end of an archive before `zipfile` reads its directory into memory."""
    file.seek(max(0, size - 98))
    end = file.read()
    if end[-22:-18] != b"PK\5\6":
        raise Damaged("it is cut short, or something was appended to it")
    directory = struct.unpack("<I", end[-10:-6])[0]
    if len(end) == 98 and end[-42:-38] == b"PK\6\7":  # the 64-bit record, which torch.save writes
        directory = max(directory, struct.unpack("<Q", end[40:48])[0])
    if directory > _MAX_DIRECTORY_BYTES:
        raise Damaged(
            f"its list of records takes {directory:,} bytes, the limit is {_MAX_DIRECTORY_BYTES:,}"
        )


def _records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The records of an archive, as `torch.save` writes them, by name without the top folder."""
    found = archive.infolist()
    names = [info.filename for info in found]
    if any(name.endswith("constants.pkl") for name in names):
        raise Damaged("it is a TorchScript program, which is not run; save model.state_dict()")
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Damaged(
            f"it is a zip archive without one data.pkl of torch.save; it holds "
            f"{', '.join(map(shown, names[:3])) or 'nothing'}. "
            "If a checkpoint is in it, unpack it"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if strange := [name for name in names if not name.startswith(folder)]:
        raise Damaged(f"its record {shown(strange[0])} lies outside of the folder {shown(folder)}")
    if len(set(names)) < len(names):
        raise Damaged("two of its records have the same name")
    if any(i.compress_type != zipfile.ZIP_STORED or i.compress_size != i.file_size for i in found):
        raise Damaged("its records are compressed, which torch.save does not do; save it again")
    if min(i.header_offset for i in found) != 0 or sum(i.file_size for i in found) > size:
        raise Damaged("bytes are missing or too many: its records overlap, or begin elsewhere")
    if (pickled := archive.getinfo(pickles[0]).file_size) > MAX_PICKLE_BYTES:
        raise Damaged(f"its pickle takes {pickled:,} bytes, the limit is {MAX_PICKLE_BYTES:,}")
    return {info.filename.removeprefix(folder): info for info in found}


def _data_offset(file: io.BufferedReader, record: zipfile.ZipInfo) -> int:
    """Where a record's data begins: behind its header, a name and extra fields."""
    file.seek(record.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return record.header_offset + 30 + int(name) + int(extra)


#: The most bytes of a file and of a safetensors header. The largest DFvT with its optimizer takes
#: 0.7 GB, and its header 0.1 MB.
_MAX_BYTES = 4 * 2**30
_MAX_HEADER_BYTES = 8 * 2**20

_SAFETENSORS_FLOATS = ("F64", "F32", "F16", "BF16")

#: How files begin that are taken for checkpoints, and what they are.
_MISTAKEN = {
    b"version https://git-lfs": "a Git LFS pointer; git lfs pull gets the file itself",
    b"\x1f\x8b": "compressed with gzip; unpack it with gunzip",
    b"BZh": "compressed with bzip2; unpack it with bunzip2",
    b"\xfd7zXZ\0": "compressed with xz; unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard; unpack it with unzstd",
    b"\x89HDF": "an HDF5 file; save the weights with torch.save or safetensors",
    b"<": "a web page or XML; download the checkpoint itself",
    b"{": "JSON text; if it is the index of a sharded checkpoint, load all its shards and save "
    "their tensors as one file",
}


def read_content(path: Path) -> Content:
    """Read what a checkpoint holds, by how it begins; Damaged for no or no whole checkpoint."""
    try:
        _check_regular(path)
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(b"PK\3\4"):
            return read_zip(path)
        # A safetensors file begins with the length of its header in 8 bytes, at most 100 MB, and
        # the header in JSON.
        if start[5:9] == b"\0\0\0{":
            if (header := int.from_bytes(start[:8], "little")) > _MAX_HEADER_BYTES:
                raise Damaged(
                    f"its header takes {header:,} bytes, the limit is {_MAX_HEADER_BYTES:,}"
                )
            return _read_safetensors(path)
        for beginning, what in _MISTAKEN.items():
            if start.startswith(beginning):
                raise Damaged(f"it is {what}")
        if start[257:262] == b"ustar":
            raise Damaged(
                "it is a tar archive; unpack it. If it is a checkpoint of PyTorch before 0.4, "
                "load it where it was made and save it again with a newer PyTorch"
            )
        return read_legacy(path)
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from error
    except (ValueError, LookupError, struct.error, OverflowError) as error:
        raise Damaged(
            f"it is damaged ({error}); is it whole, and written by torch.save or safetensors?"
        ) from error


def _check_regular(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise Damaged("it does not exist") from None
    if stat.S_ISDIR(status.st_mode):
        raise Damaged("it is a folder; give the checkpoint file in it")
    if not stat.S_ISREG(status.st_mode):
        raise Damaged("it is a pipe, a socket or a device; give a regular file")
    if status.st_size == 0:
        raise Damaged("it is empty")
    if status.st_size > _MAX_BYTES:
        raise Damaged(f"it has {status.st_size:,} bytes, the limit is {_MAX_BYTES:,}")


def _read_safetensors(path: Path) -> Content:
    from safetensors import SafetensorError, safe_open

    def weight(key: str) -> Weight:
        def read() -> Tensor:
            try:
                return file.get_tensor(key)
            except (SafetensorError, RuntimeError, ValueError) as error:
                raise Damaged(str(error)) from error

        found = file.get_slice(key)
        dtype = str(found.get_dtype())
        return Weight(
            tuple(found.get_shape()), dtype, read if dtype in _SAFETENSORS_FLOATS else None
        )

    try:
        file: Any = safe_open(path, framework="pt")
        weights = [(key, weight(key)) for key in file.keys()]  # noqa: SIM118
    except SafetensorError as error:
        raise Damaged(f"it is no whole safetensors file: {error}") from error
    return Content(Entries(weights), lambda found: found, "safetensors")


_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001

_ELEMENT_SIZES = {
    **{f"torch.{name}Storage": 1 for name in ("Byte", "Char", "Bool", "QInt8", "QUInt8")},
    **{f"torch.{name}Storage": 2 for name in ("Half", "BFloat16", "Short")},
    **{f"torch.{name}Storage": 4 for name in ("Float", "Int", "QInt32")},
    **{f"torch.{name}Storage": 8 for name in ("Double", "Long", "ComplexFloat")},
    "torch.ComplexDoubleStorage": 16,
    "torch.storage.UntypedStorage": 1,
}


def read_legacy(path: Path) -> Content:
    """Read pickles of a magic number, a version, the system, the content and the storages' keys;
    each storage follows as its count of elements and its bytes. Raises Damaged where the file is
    not of this format, cut, or with storages that do not fit the content, and OSError, ValueError,
    LookupError or struct.error where it is damaged."""
    with path.open("rb") as file:
        start = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        try:
            magic = read_pickle(start)
        except (ValueError, LookupError, struct.error):
            magic = None
        if not (type(magic) is int and magic == _MAGIC):
            pickled = "; a plain pickle is not read: save it with torch.save"
            raise Damaged(
                "it is no file of torch.save or safetensors"
                + (pickled if start.getvalue()[:1] == b"\x80" else "")
            )
        version = read_pickle(start)
        if not (type(version) is int and version == _VERSION):
            raise Damaged("its format version is not 1001, the only one there was")
        read_pickle(start)  # the system's byte order and integer sizes, which decide nothing
        storages: list[Storage] = []
        top = read_pickle(start, storages)
        keys = read_pickle(start)
        if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
            raise Damaged("its list of storages is no list of names")
        by_key = {storage.key: storage for storage in storages if isinstance(storage.key, str)}
        places: dict[str, Place] = {}
        offset, end = start.tell(), path.stat().st_size
        for key in keys:
            if key not in by_key or key in places:
                raise Damaged("it lists a storage twice, or one that no tensor has")
            file.seek(offset)
            count = struct.unpack("<q", file.read(8))[0]
            if not (type(by_key[key].count) is int and by_key[key].count == count >= 0):
                raise Damaged(f"the length of its storage {shown(key)} is told in two ways")
            places[key] = Place(path, offset + 8, count * _element_size(by_key[key]))
            offset += 8 + places[key].size
            if offset > end:
                break
    if offset != end:
        raise Damaged(
            f"its storages end at byte {offset:,}, the file at {end:,}; it is cut or longer"
        )
    return Content(top, lambda tensor: stored_weight(tensor, places))


def _element_size(storage: Storage) -> int:
    kind = storage.kind.path if isinstance(storage.kind, Name) else ""
    if kind not in _ELEMENT_SIZES:
        raise Damaged(f"it has a storage of the unknown class {shown(kind)}")
    return _ELEMENT_SIZES[kind]
