"""Hand-made checkpoint files: pickles from opcodes, in both formats of torch, and damage."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import torch

LEGACY_HEADER = (
    0x1950A86A20F9469CFC6C,
    1001,
    {"protocol_version": 1001, "little_endian": True, "type_sizes": {}},
)


def text(value: str) -> bytes:
    """BINUNICODE"""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def whole(value: int) -> bytes:
    """BININT, or LONG1 where the number takes more than 32 bits."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def named(module: str, name: str) -> bytes:
    """GLOBAL"""
    return f"c{module}\n{name}\n".encode()


def called(module: str, name: str, arguments: bytes) -> bytes:
    """A call with the arguments that the opcodes push."""
    return named(module, name) + b"(" + arguments + b"tR"


def dict_of(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def storage(count: int = 12, key: bytes = text("0"), kind: str = "FloatStorage") -> bytes:
    """BINPERSID of a storage, by default the one that `as_zip` and `as_legacy` write."""
    return b"(" + text("storage") + named("torch", kind) + key + text("cpu") + whole(count) + b"tQ"


def tensor(
    of: bytes = storage(),
    size: tuple[int, ...] = (3, 4),
    stride: tuple[int, ...] = (4, 1),
    offset: int = 0,
) -> bytes:
    sizes = [b"(" + b"".join(map(whole, values)) + b"t" for values in (size, stride)]
    arguments = of + whole(offset) + sizes[0] + sizes[1] + b"\x89" + b"}"
    return called("torch._utils", "_rebuild_tensor_v2", arguments)


def as_zip(path: Path, content: bytes) -> Path:
    """The opcodes as the content of an archive that holds one storage of 12 floats."""
    torch.save({"w": torch.arange(12.0)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in records if name.endswith("data.pkl"))
    return write_zip(path, records | {pickled: b"\x80\x02" + content + b"."})


def write_zip(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return path


def as_legacy(path: Path, content: bytes, listed: bool = True) -> Path:
    """The opcodes as the content of a legacy file, with one storage of 12 floats if they refer to
    it and it is to be listed."""
    keys = ("0",) if listed and b"Storage" in content and text("0") in content else ()
    pickles = b"".join(pickle.dumps(value, 2) for value in LEGACY_HEADER)
    pickles += b"\x80\x02" + content + b"." + pickle.dumps([*keys], 2)
    values = struct.pack("<q", 12) + torch.arange(12.0).numpy().tobytes()
    path.write_bytes(pickles + values * len(keys))
    return path


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()
