"""`torch.load` without running anything from the file.

A pickle names the callables that rebuild its objects, and sets state on what they return. The
published checkpoints hold a yacs `CfgNode`, so `torch.load(weights_only=True)` refuses them. Here
only tensors and plain containers are rebuilt, by functions of this module; every other name
resolves to an inert stand-in that takes whatever the pickle does to it and does nothing. State is
never set on anything. The module is passed to `torch.load` as its `pickle_module`.
"""

from __future__ import annotations

import collections
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import IO, Any, ClassVar

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

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _item: object) -> None:
        pass

    def extend(self, _items: object) -> None:
        pass

    def add(self, _item: object) -> None:
        pass


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_rest: object) -> torch.Tensor:
    """A tensor of a storage that `torch.load` read; hooks and metadata are left out."""
    return torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call]


def _parameter(data: torch.Tensor, *_rest: object) -> torch.Tensor:
    return data


#: What a name in a pickle stands for. Storage classes are not here: `torch.load` resolves them to
#: stand-ins of its own. A stand-in may be called, so nothing here allocates what a file asks for.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "Size"): torch.Size,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}


class Unpickler(pickle._Unpickler):
    """Resolves admitted names only; a subclass of it in `torch.load` adds the storages.

    The one written in Python, since the compiled one cannot be kept from setting state. The
    tensors themselves are not read through it.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        return _ADMITTED.get((module, name), Inert)

    def load_build(self) -> None:
        """Drop the state that a pickle would set on an object, function or class."""
        self.stack.pop()  # type: ignore[attr-defined]

    def load_binpersid(self) -> None:
        """Refuse pickled modules, whose source `torch.load` would compare, and write to a file."""
        reference = self.stack[-1]  # type: ignore[attr-defined]
        if not (isinstance(reference, tuple) and reference[:1] == ("storage",)):
            raise pickle.UnpicklingError("it holds a pickled module; save model.state_dict()")
        super().load_binpersid()  # type: ignore[misc]

    def load_persid(self) -> None:
        raise pickle.UnpicklingError("it holds a reference of pickle protocol 0")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BINPERSID[0]] = load_binpersid
    dispatch[pickle.PERSID[0]] = load_persid


def load(file: IO[bytes], **kwargs: Any) -> Any:
    """What `torch.load` asks of a pickle module besides `Unpickler`."""
    return Unpickler(file, **kwargs).load()


def load_pickled(path: Path) -> Any:
    """Everything in a file written by `torch.save`, tensors on the CPU, foreign objects inert.

    Raises:
        CheckpointError: not such a file, a TorchScript archive, or damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CheckpointError(
                    f"{path} is a TorchScript program, which is not run; save model.state_dict()"
                )
    elif tarfile.is_tarfile(path):
        raise CheckpointError(
            f"{path} is of a torch format before 0.4; load and save it with a newer torch"
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
