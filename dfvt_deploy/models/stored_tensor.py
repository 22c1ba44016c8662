"""Tensors of a checkpoint as ranges of its bytes, checked before they are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .inert_pickle import Name, Storage, StoredTensor

_MAX_DIMENSIONS = 8
_MAX_SIZE = 2**40

#: How many times its own bytes a view may span in the file, as a column of a matrix does.
_MAX_SPREAD = 16

_FLOAT_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
}


def shown(text: str) -> str:
    """A text of a file for a message: at most 80 characters, quoted where it is not printable."""
    return text if text.isprintable() and len(text) <= 80 else repr(text[:80])


class Damaged(Exception):
    """A file that is no checkpoint, or not a whole one. The message says what was found."""


@dataclass(frozen=True)
class Weight:
    """A tensor of a checkpoint. `dtype` is the format's name for it; `read` reads the values, or
    is None where the dtype is none of float64, float32, float16, bfloat16."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Tensor] | None


@dataclass(frozen=True)
class Content:
    """What a checkpoint holds: `top`, described by `inert_pickle` or `Entries` of `Weight`, and
    the layout's name if that is itself a state dict. `weight` gives the `Weight` of a tensor in it,
    and raises `Damaged` where the file lacks its bytes."""

    top: Any
    weight: Callable[[Any], Weight]
    bare_layout: str = "bare"


@dataclass(frozen=True)
class Place:
    """Where a storage lies in a file, in bytes."""

    path: Path
    offset: int
    size: int
    big_endian: bool = False


def stored_weight(tensor: StoredTensor, places: Mapping[str, Place]) -> Weight:
    """Check that every element of a tensor is one of the file's, and say how to read it."""
    storage, shape, stride = tensor.storage, tensor.size, tensor.stride
    for sizes in (shape, stride, (tensor.offset,)):
        whole = isinstance(sizes, tuple) and len(sizes) <= _MAX_DIMENSIONS
        if not (whole and all(type(n) is int and 0 <= n < _MAX_SIZE for n in sizes)):
            raise Damaged("its shape, strides or offset are no sizes of a tensor")
    if not (isinstance(storage, Storage) and len(shape) == len(stride)):
        raise Damaged("it has no storage, or more strides than dimensions")
    kind = next((k.path for k in (tensor.dtype, storage.kind) if isinstance(k, Name)), "")
    dtype = _FLOAT_STORAGES.get(kind)
    if dtype is None:
        return Weight(shape, kind, None)
    place = places.get(storage.key) if isinstance(storage.key, str) else None
    if place is None:
        raise Damaged("the file does not have its storage")
    item = dtype.itemsize
    if not (type(storage.count) is int and storage.count * item == place.size):
        raise Damaged("its storage is of another length in the file than in the pickle")
    reach = sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    span = reach + 1 if prod(shape) else 0
    if tensor.offset + span > storage.count:
        raise Damaged("it reaches beyond its storage")
    if prod(shape) > span:
        raise Damaged(
            "it has more elements than the file has for it (an expanded tensor); save "
            "tensor.contiguous()"
        )
    if span > _MAX_SPREAD * prod(shape):
        raise Damaged("its elements lie far apart in its storage; save tensor.contiguous()")

    def read() -> Tensor:
        with place.path.open("rb") as file:
            file.seek(place.offset + tensor.offset * item)
            values = np.fromfile(file, f"u{item}", span)
        if len(values) != span:
            raise Damaged("the file became shorter while it was read")
        if place.big_endian:
            values = values.byteswap()
        return torch.from_numpy(values.view("u1")).view(dtype).as_strided(shape, stride)

    return Weight(shape, kind, read)
