"""Hostile and unlucky checkpoints: nothing runs, nothing grows, and no answer is wrong."""

import gzip
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from dfvt_deploy.errors import CheckpointError
from dfvt_deploy.models import inspect_checkpoint
from dfvt_deploy.models.checkpoint import read_state_dict
from dfvt_deploy.types import Weights

from .checkpoint_files import (
    as_legacy,
    as_zip,
    called,
    dict_of,
    flipped,
    named,
    saved,
    storage,
    tensor,
    text,
    whole,
    write_zip,
)

TINY = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "a.bias": torch.tensor([0.5, -1.5, 3.0], dtype=torch.float64),
    "b.weight": torch.arange(6).reshape(2, 3).half(),
    "b.scale": torch.tensor(2.0).bfloat16(),
}


def _values(path: Path) -> dict[str, torch.Tensor]:
    weights = read_state_dict(path, Weights.MODEL).weights
    return {key: weight.read() for key, weight in weights.items() if weight.read is not None}


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[key].dtype == value.dtype
        and found[key].shape == value.shape
        and found[key]
        .contiguous()
        .view(-1)
        .view(torch.uint8)
        .equal(value.contiguous().view(-1).view(torch.uint8))
        for key, value in expected.items()
    )


def _nested(depth: int) -> bytes:
    return b")" + b"\x85" * depth


def _doubled(times: int) -> bytes:
    """A tuple of two of the tuple before it: 2**times leaves in 3 * times bytes."""
    return b")" + b"2\x86" * times


def _runs(directory: Path) -> dict[str, bytes]:
    """Pickles that make a folder when `pickle` loads them, one way of calling each."""
    made = text(str(directory))
    line = str(directory).encode()
    code = f"__import__('os').mkdir({str(directory)!r})"
    return {
        "REDUCE": called("os", "mkdir", made),
        "REDUCE of eval": called("builtins", "eval", text(code)),
        "REDUCE of a name of another module": called("posix", "mkdir", made),
        "INST": b"(S'" + line + b"'\nios\nmkdir\n",
        "OBJ": b"(" + named("os", "mkdir") + made + b"o",
        "STACK_GLOBAL": text("os") + text("mkdir") + b"\x93" + made + b"\x85R",
        "dotted STACK_GLOBAL": text("pathlib") + text("os.mkdir") + b"\x93" + made + b"\x85R",
        "NEWOBJ": named("dfvt_canary", "New") + made + b"\x85\x81",
        "NEWOBJ_EX": named("dfvt_canary", "New") + made + b"\x85}\x92",
        "BUILD": named("dfvt_canary", "State") + b")\x81" + made + b"b",
        "SETITEM": named("dfvt_canary", "Item") + b")\x81" + made + b"Ns",
        "SETITEMS": named("dfvt_canary", "Item") + b")\x81(" + made + b"Nu",
        "APPEND": named("dfvt_canary", "Item") + b")\x81" + made + b"a",
        "APPENDS": named("dfvt_canary", "Item") + b")\x81(" + made + b"e",
        "ADDITEMS": named("dfvt_canary", "Item") + b")\x81(" + made + b"\x90",
        "hash of a key": b"}" + named("dfvt_canary", "Hash") + made + b"\x85\x81Ns",
    }


@pytest.fixture
def canary(monkeypatch):
    """A module whose classes make a folder, each at another moment of unpickling."""

    class New:
        def __new__(cls, path):
            Path(path).mkdir()
            return super().__new__(cls)

    class State:
        def __setstate__(self, path):
            Path(path).mkdir()

    class Item:
        def __setitem__(self, path, _value):
            Path(path).mkdir()

        def append(self, path):
            Path(path).mkdir()

        add = append

    class Hash:
        def __new__(cls, path):
            made = super().__new__(cls)
            made.path = path
            return made

        def __hash__(self):
            Path(self.path).mkdir()
            return 0

    module = type(sys)("dfvt_canary")
    module.__dict__.update(New=New, State=State, Item=Item, Hash=Hash)
    monkeypatch.setitem(sys.modules, "dfvt_canary", module)


@pytest.mark.parametrize("write", [as_zip, as_legacy])
@pytest.mark.parametrize("way", list(_runs(Path())))
def test_nothing_in_a_file_is_executed(tmp_path, canary, write, way):
    marker = tmp_path / "executed"
    attack = _runs(marker)[way]
    path = write(tmp_path / "a.pth", dict_of(model=dict_of(w=tensor()), extra=attack))
    assert _same(_values(path), {"w": torch.arange(12.0).reshape(3, 4)})
    for content in (attack, dict_of(model=attack), dict_of(model=dict_of(w=attack))):
        with pytest.raises(CheckpointError):
            inspect_checkpoint(write(tmp_path / "a.pth", content))
    assert not marker.exists()
    pickle.loads(b"\x80\x04" + attack + b".")
    assert marker.exists(), "the attack would not have worked anyway"


#: Opcodes in the place of a checkpoint's content that the reader refuses, with the reason.
REFUSED = {
    "nothing on the stack": (b"0", "empty stack"),
    "an endless program": (b"N0" * 600_000 + b"N", "more than 1,000,000 opcodes"),
    "6 GB in one opcode": (b"\x96" + struct.pack("<Q", 6 * 10**9), "expected 6000000000 bytes"),
    "a number of 5,000 digits": (b"I" + b"9" * 5000 + b"\nN", "cannot be read"),
    "a registered extension": (b"\x82\x01", "the opcode EXT1"),
    "a reference of protocol 0": (b"P0\n", "the opcode PERSID"),
    "an out-of-band buffer": (b"\x97", "the opcode NEXT_BUFFER"),
    "a name that is a number": (b"K\x01K\x01\x93", "something else than text"),
    "a call without a tuple": (named("os", "mkdir") + b"NR", "something else than a tuple"),
    "a key without a value": (b"}(" + text("a") + b"u", "key without a value"),
    "an entry of a text": (text("a") + text("b") + whole(1) + b"s", "neither a list nor a dict"),
    "an item of a dict": (b"}" + whole(1) + b"a", "neither a list nor a dict"),
    "items appended to a tensor": (tensor() + b"(NNe", "neither a list nor a dict"),
    "a view of a storage": (
        b"("
        + text("storage")
        + named("torch", "FloatStorage")
        + text("0")
        + text("cpu")
        + whole(12)
        + b"("
        + text("0")
        + whole(0)
        + whole(4)
        + b"ttQ",
        "something else than a storage",
    ),
    "another reference": (b"(" + text("file") + text("/etc/passwd") + b"tQ", "something else than"),
    "a memo that is not there": (b"h\x07", "cannot be read"),
    "a byte that is no opcode": (b"\xff", "cannot be read"),
    "a list": (b"]", r"of the type list, no state dict"),
    "a module": (
        b"(" + text("module") + named("nets", "DFvT") + text("a.py") + text("CODE") + b"tQ",
        "an object of nets.DFvT, no state dict.*model.state_dict",
    ),
    "a name": (named("os", "environ"), "the name os.environ, no state dict"),
    "a million-deep tuple": (_nested(10**6), "more than 1,000,000 opcodes"),
    "a deep tuple": (_nested(100_000), "of the type tuple"),
    "a deep key": (dict_of(model=b"}" + _nested(100_000) + tensor() + b"s"), "is no text"),
    "doubled tuples as a key": (
        dict_of(model=b"}" + _doubled(200) + tensor() + b"s"),
        "is no text",
    ),
    "a key twice": (b"}(" + (text("w") + tensor()) * 2 + b"u", "is there twice"),
    "numpy": (
        dict_of(model=dict_of(w=called("numpy.core.multiarray", "_reconstruct", b"N"))),
        "w in the state dict is an object of numpy.core.multiarray._reconstruct, not a tensor",
    ),
    "surrogates and newlines in a name": (
        dict_of(model=dict_of(**{"a\ud800\n\x1b[2J": b"N"})),
        r"'a\\ud800\\n\\x1b\[2J' in the state dict is of the type NoneType",
    ),
    "a name of 1 MB": (dict_of(model=dict_of(**{"a" * 10**6: b"N"})), r"pth: 'a{80}' in the"),
    "no storage": (dict_of(w=tensor(b"N")), "no storage"),
    "a storage that is not there": (dict_of(w=tensor(storage(key=text("7")))), "have its storage"),
    "a number as a storage's key": (dict_of(w=tensor(storage(key=whole(0)))), "have its storage"),
    "a path as a storage's key": (
        dict_of(w=tensor(storage(key=text("../version")))),
        "have its storage",
    ),
    "a longer storage": (dict_of(w=tensor(storage(13), (13,), (1,))), "length|two ways"),
    "a shorter storage": (dict_of(w=tensor(storage(11), (11,), (1,))), "length|two ways"),
    "a storage of another size": (
        dict_of(w=tensor(storage(12, kind="DoubleStorage"), (12,), (1,))),
        "length|it is cut",
    ),
    "a negative offset": (dict_of(w=tensor(offset=-1)), "no sizes of a tensor"),
    "a negative stride": (dict_of(w=tensor(stride=(-4, 1))), "no sizes of a tensor"),
    "a negative size": (dict_of(w=tensor(size=(-3, 4))), "no sizes of a tensor"),
    "a size of 72 bits": (dict_of(w=tensor(size=(2**70, 4))), "no sizes of a tensor"),
    "a hundred dimensions": (
        dict_of(w=tensor(size=(1,) * 100, stride=(1,) * 100)),
        "no sizes of a tensor",
    ),
    "an offset beyond": (dict_of(w=tensor(offset=1)), "beyond its storage"),
    "a size beyond": (dict_of(w=tensor(size=(4, 4))), "beyond its storage"),
    "a stride beyond": (dict_of(w=tensor(stride=(5, 1))), "beyond its storage"),
    "an expanded tensor": (dict_of(w=tensor(size=(2**39, 4), stride=(0, 1))), "expanded tensor"),
    "overlapping rows": (dict_of(w=tensor(size=(4, 6), stride=(2, 1))), "expanded tensor"),
    "too few strides": (dict_of(w=tensor(stride=(1,))), "more strides than dimensions|no storage"),
}


@pytest.mark.parametrize("write", [as_zip, as_legacy])
@pytest.mark.parametrize("case", list(REFUSED))
def test_hand_made_pickles_are_refused(tmp_path, write, case):
    content, reason = REFUSED[case]
    with pytest.raises(CheckpointError, match=reason):
        read_state_dict(write(tmp_path / "a.pth", content), Weights.MODEL)


#: Opcodes beside a state dict that change nothing about it.
HARMLESS = {
    "a deep tuple": _nested(100_000),
    "a deep list": b"]" * 100_000 + b"a" * 99_999,
    "a deep dict": b"}N" * 100_000 + b"}" + b"s" * 100_000,
    "a deep key": b"}" + _nested(100_000) + b"Ns",
    "doubled tuples as a key": b"}" + _doubled(500) + b"Ns",
    "doubled tuples in a set": b"\x8f(" + _doubled(500) + b"\x90",
    "doubled tuples in a frozen set": b"(" + _doubled(500) + b"\x91",
    "numbers with one hash": b"}(" + b"".join(
        whole(n * (2**61 - 1)) + b"N" for n in range(5, 10)
    ) * 20_000 + b"u",
    "a list in itself": b"]q\x01h\x01a",
    "a dict in itself": b"}q\x01" + text("a") + b"h\x01s",
    "items added to an expanded tensor": tensor(size=(2**39,), stride=(0,)) + b"(NN\x90",
    "state set on a function": named("torch._utils", "_rebuild_tensor_v2") + b"}b",
    "a set": b"\x8f(" + text("a") + b"\x90",
    "bytes of every kind": b"C\x01aB\x01\0\0\0a\x8e" + struct.pack("<Q", 1) + b"a\x87",
    "a yacs config": called("yacs.config", "CfgNode", b"") + text("a") + b"Ns}b",
}  # fmt: skip


@pytest.mark.parametrize("write", [as_zip, as_legacy])
@pytest.mark.parametrize("case", list(HARMLESS))
def test_what_lies_beside_the_weights_does_no_harm(tmp_path, write, case):
    path = write(tmp_path / "a.pth", dict_of(model=dict_of(w=tensor()), extra=HARMLESS[case]))
    assert _same(_values(path), {"w": torch.arange(12.0).reshape(3, 4)})


def test_views_of_a_storage_are_read(tmp_path):
    expected = torch.arange(12.0).reshape(3, 4)
    content = dict_of(
        rows=tensor(size=(2, 4), offset=4),
        turned=tensor(size=(4, 3), stride=(1, 4)),
        columns=tensor(size=(3, 2), offset=1),
        scalar=tensor(size=(), stride=(), offset=11),
        empty=tensor(size=(0, 4)),
    )
    views = {
        "rows": expected[1:],
        "turned": expected.T,
        "columns": expected[:, 1:3],
        "scalar": expected[2, 3],
        "empty": expected[:0],
    }
    for write in (as_zip, as_legacy):
        assert _same(_values(write(tmp_path / "a.pth", content)), views)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("new", [True, False])
def test_every_pickle_protocol_and_both_formats_are_read(tmp_path, protocol, new):
    path = tmp_path / "a.pth"
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": new}
    torch.save({"model": {k: torch.nn.Parameter(v) for k, v in TINY.items()}}, path, **options)
    assert _same(_values(path), TINY)


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "sparse.pth"
    path.write_bytes(saved(TINY))
    os.truncate(path, 5 * 2**30)
    with pytest.raises(CheckpointError, match="it has 5,368,709,120 bytes, the limit is"):
        inspect_checkpoint(path)


def test_a_view_spread_over_a_large_storage_is_refused(tmp_path):
    torch.save({"w": torch.zeros(10_000)[::1000]}, tmp_path / "spread.pth")
    with pytest.raises(CheckpointError, match="its elements lie far apart"):
        read_state_dict(tmp_path / "spread.pth", Weights.MODEL)
    torch.save({"w": torch.arange(100.0)[::10]}, tmp_path / "near.pth")
    assert _same(_values(tmp_path / "near.pth"), {"w": torch.arange(0, 100, 10.0)})


def test_a_big_endian_archive_is_read(tmp_path):
    data = saved({"w": torch.arange(4.0)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    records["archive/byteorder"] = b"big"
    records["archive/data/0"] = np.arange(4, dtype=">f4").tobytes()
    path = write_zip(tmp_path / "big.pth", records)
    assert _same(_values(path), {"w": torch.arange(4.0)})


def _torchscript(folder: Path) -> bytes:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
        torch.jit.save(module, folder / "script")
    return (folder / "script").read_bytes()


def _tar(folder: Path) -> bytes:
    """A tar as torch read before 0.4, with a hard link to a file outside and a pipe."""
    (folder / "foreign").write_text("mine")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname, link.mode = tarfile.LNKTYPE, str(folder / "foreign"), 0o777
            archive.addfile(link)
        pipe = tarfile.TarInfo("pipe")
        pipe.type = tarfile.FIFOTYPE
        archive.addfile(pipe)
    return buffer.getvalue()


def _renamed(data: bytes, **changes: str) -> bytes:
    """An archive with some records under another name, as another writer makes it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as changed:
            for name in archive.namelist():
                last = name.split("/")[-1].replace(".", "_")
                changed.writestr(changes.get(last, name), archive.read(name))
    return buffer.getvalue()


def _compressed(records: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _safetensors(header: object, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


END_RECORD = b"PK\5\6" + bytes(18)
HIDDEN_END = b"PK\5\6" + bytes(16)

#: Whole files that are refused, made in a folder, with the reason.
FILES = {
    "TorchScript": (_torchscript, "TorchScript program, which is not run"),
    "TorchScript with a comment that hides its end": (
        lambda folder: _torchscript(folder)[:-2] + struct.pack("<H", 22) + END_RECORD,
        "zip archive without one data.pkl|appended|cannot be read",
    ),
    "TorchScript with something appended": (
        lambda folder: _torchscript(folder) + b"x" * 70_000,
        "something was appended",
    ),
    "a tar": (_tar, "tar archive"),
    "a tar with an end record of zip": (lambda folder: _tar(folder) + END_RECORD, "tar archive"),
    "an archive with a comment": (
        lambda _: saved(TINY)[:-2] + struct.pack("<H", 3) + b"abc",
        "something was appended",
    ),
    "an archive behind another": (
        lambda _: saved({"model": TINY}) + saved({"model": {"a.weight": torch.ones(3, 4)}}),
        "bytes are missing or too many",
    ),
    "an archive that is cut": (lambda _: saved(TINY)[:-1], "cut short"),
    "an empty archive": (lambda _: END_RECORD, "no file of torch.save"),
    "two records of a name": (
        lambda _: _renamed(saved(TINY), version="archive/data/9").replace(b"data/9", b"data/0"),
        "two of its records have the same name",
    ),
    "a record outside of the folder": (
        lambda _: _renamed(saved(TINY), version="../../escape"),
        "lies outside of the folder",
    ),
    "two pickles": (
        lambda _: _renamed(saved(TINY), version="other/data.pkl"),
        "without one data.pkl",
    ),
    "a storage under another name": (
        lambda _: _renamed(saved({"w": torch.ones(2)}), **{"0": "archive/data/00"}),
        "does not have its storage",
    ),
    "a pickle of 200 MB in a small file": (
        lambda _: _compressed({"archive/data.pkl": bytes(200 * 2**20)}),
        "compressed, which torch.save does not do",
    ),
    "a checkpoint in a zip": (
        lambda _: _compressed({"model.pth": saved(TINY)}),
        r"it holds model.pth. If a checkpoint is in it, unpack it",
    ),
    "numpy's archive": (lambda _: _compressed({"w.npy": b"1"}), "without one data.pkl"),
    "a legacy file without its last value": (
        lambda _: saved(TINY, _use_new_zipfile_serialization=False)[:-1],
        "cut or longer",
    ),
    "a legacy file with a line appended": (
        lambda _: saved(TINY, _use_new_zipfile_serialization=False) + b"\n",
        "cut or longer",
    ),
    "a legacy file of another version": (
        lambda _: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1002, 2),
        "version is not 1001",
    ),
    "a plain pickle": (lambda _: pickle.dumps({"model": 1}), "plain pickle is not read"),
    "a Git LFS pointer": (
        lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "Git LFS pointer; git lfs pull",
    ),
    "gzip": (lambda _: gzip.compress(saved(TINY)), "compressed with gzip; unpack it with gunzip"),
    "an index of shards": (lambda _: b'{"weight_map": {}}', "index of a sharded checkpoint"),
    "a web page": (lambda _: b"<!DOCTYPE html><html>", "a web page"),
    "float8 in safetensors": (
        lambda _: _safetensors(
            {"w": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"ab"
        ),
        "no DFvT checkpoint with a head",
    ),
    "a dtype that is none": (
        lambda _: _safetensors({"w": {"dtype": "F7", "shape": [2], "data_offsets": [0, 2]}}, b"ab"),
        "no whole safetensors file",
    ),
    "overlapping tensors": (
        lambda _: _safetensors(
            {k: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for k in "ab"}, bytes(8)
        ),
        "no whole safetensors file",
    ),
    "a tensor larger than its bytes": (
        lambda _: _safetensors(
            {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}, bytes(8)
        ),
        "no whole safetensors file",
    ),
    "a deep header": (lambda _: _safetensors(b'{"a":' * 10**5), "no whole safetensors file"),
    "a header of 40 MB": (
        lambda _: _safetensors(b"{" + b" " * 40_000_000 + b"}"),
        "its header takes 40,000,002 bytes",
    ),
    "a header that is cut": (lambda _: _safetensors(b"{" + b" " * 99)[:50], "no whole safetensors"),
    "safetensors that are cut": (
        lambda _: safetensors.torch.save(TINY)[:-1],
        "no whole safetensors file",
    ),
}


@pytest.mark.parametrize("case", list(FILES))
def test_files_are_refused_with_the_reason(tmp_path, case):
    make, reason = FILES[case]
    path = tmp_path / "a.pth"
    path.write_bytes(make(tmp_path))
    before = {p.name: (p.stat().st_mode, p.read_bytes()) for p in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=reason):
        inspect_checkpoint(path)
    assert {p.name: (p.stat().st_mode, p.read_bytes()) for p in tmp_path.iterdir()} == before


def test_a_legacy_file_that_lists_no_storages_is_refused(tmp_path):
    path = as_legacy(tmp_path / "a.pth", dict_of(w=tensor()), listed=False)
    with pytest.raises(CheckpointError, match="does not have its storage"):
        read_state_dict(path, Weights.MODEL)


def test_a_flipped_bit_in_a_record_is_found(tmp_path):
    data = saved({"w": torch.zeros(4096)})
    path = tmp_path / "a.pth"
    path.write_bytes(flipped(data, data.index(bytes(4096)) + 2048))
    with pytest.raises(CheckpointError, match=r"record archive/data/0 is damaged"):
        read_state_dict(path, Weights.MODEL)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "empty").touch()
    for path, reason in {
        tmp_path: "it is a folder",
        tmp_path / "pipe": "a pipe, a socket or a device",
        Path("/dev/zero"): "a pipe, a socket or a device",
        tmp_path / "loop": "symbolic links",
        tmp_path / "absent": "does not exist",
        tmp_path / "empty": "it is empty",
        tmp_path / "empty" / "file": "Not a directory",
        tmp_path / ("a" * 300): "name too long",
        tmp_path / "a\0b": "null byte|does not exist",
        "": "it is a folder",
    }.items():
        with pytest.raises(CheckpointError, match=reason):
            inspect_checkpoint(path)


def _original(kind: str) -> bytes:
    if kind == "safetensors":
        return safetensors.torch.save(TINY)
    return saved(TINY, _use_new_zipfile_serialization=kind == "zip")


def _trusted(path: Path, kind: str) -> dict[str, torch.Tensor]:
    """What the format's own library reads. A change in a value is beyond what it can find."""
    if kind == "zip":
        return TINY
    try:
        if kind == "safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, weights_only=True)
    except Exception:  # it is stricter about what lies beside the tensors
        return TINY


def mutated(data: bytes, random_: random.Random) -> bytes:
    """The file with one of: a flipped bit, a changed byte, bytes left out, repeated, or cut off."""
    at = random_.randrange(len(data))
    length = random_.choice((1, 1, 4, 8, 64))
    return random_.choice(
        (
            flipped(data, at, random_.randrange(8)),
            data[:at] + random_.randbytes(length) + data[at + length :],
            data[:at] + data[at + length :],
            data[:at] + data[at : at + length] + data[at:],
            data[:at],
        )
    )


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_mutated_files_load_right_or_are_refused(tmp_path, kind):
    random_ = random.Random(kind)
    original = _original(kind)
    path = tmp_path / "a.pth"
    for number in range(120):
        path.write_bytes(mutated(original, random_))
        try:
            found = _values(path)
        except CheckpointError:
            continue
        assert _same(found, _trusted(path, kind)), number


def test_small_files_take_little_memory_and_time(tmp_path):
    """Such files in one process whose memory and processor time the kernel bounds."""
    contents = [*HARMLESS.values(), *(content for content, _ in REFUSED.values())]
    for number, content in enumerate(c for c in contents if len(c) > 1000 or b"\x96" in c):
        as_zip(tmp_path / f"{number}.zip", dict_of(extra=content, w=tensor()))
    code = """
import resource, sys
from pathlib import Path
from dfvt_deploy.errors import CheckpointError
from dfvt_deploy.models import inspect_checkpoint
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
for path in Path(sys.argv[1]).iterdir():
    try:
        inspect_checkpoint(path)
    except CheckpointError:
        pass
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
