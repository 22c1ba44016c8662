"""`torch.load` without running anything from the file.

A pickle names the callables that rebuild its objects. The published checkpoints hold a yacs
`CfgNode`, so `torch.load(weights_only=True)` refuses them. Here the names that rebuild tensors
and plain containers resolve to what they say, and every other name to an inert stand-in that
takes whatever the pickle does to it and does nothing. The module is passed to `torch.load` as its
`pickle_module`.
"""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import IO, Any

import torch

from ..errors import CheckpointError


class Inert:
    """Stands in for an object of a class that is not admitted."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __call__(self, *_args: object, **_kwargs: object) -> Inert:
        return Inert()

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _item: object) -> None:
        pass

    def extend(self, _items: object) -> None:
        pass

    def add(self, _item: object) -> None:
        pass


def _admitted() -> dict[tuple[str, str], Any]:
    rebuild = (
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
    )
    names: dict[tuple[str, str], Any] = {
        ("torch._utils", name): getattr(torch._utils, name) for name in rebuild
    }
    names["torch", "Size"] = torch.Size
    names["torch", "device"] = torch.device
    names["torch.storage", "UntypedStorage"] = torch.UntypedStorage
    names["torch", "UntypedStorage"] = torch.UntypedStorage
    for name in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte"):
        names["torch", f"{name}Storage"] = getattr(torch, f"{name}Storage")
    names["torch", "BoolStorage"] = torch.BoolStorage
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"):
        names["torch", name] = getattr(torch, name)
    names["torch", "uint8"] = torch.uint8
    names["torch", "bool"] = torch.bool
    names["collections", "OrderedDict"] = collections.OrderedDict
    for kind in (set, frozenset, dict, list, tuple, int, float, bool, str, bytes):
        names["builtins", kind.__name__] = kind
        names["__builtin__", kind.__name__] = kind
    return names


_ADMITTED = _admitted()


class Unpickler(pickle.Unpickler):
    """Resolves admitted names only; a subclass of it in `torch.load` adds the storages."""

    def find_class(self, module: str, name: str) -> Any:
        return _ADMITTED.get((module, name), Inert)


# What `torch.load` asks of a pickle module besides `Unpickler`.
def load(file: IO[bytes], **kwargs: Any) -> Any:
    return Unpickler(file, **kwargs).load()


def load_pickled(path: Path) -> Any:
    """Everything in a file written by `torch.save`, tensors on the CPU, foreign objects inert.

    Raises:
        CheckpointError: not such a file, a TorchScript archive, or damaged.
    """
    import sys
    import zipfile

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CheckpointError(
                    f"{path} is a TorchScript program, which is not run; save model.state_dict()"
                )
    try:
        return torch.load(
            path, map_location="cpu", pickle_module=sys.modules[__name__], weights_only=False
        )
    except Exception as error:  # damaged pickles fail in as many ways as there are opcodes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint ({reason}); "
            "is the file complete, and written by torch.save or safetensors?"
        ) from error
