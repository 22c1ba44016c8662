"""A reader of pickles that imports, calls and builds nothing.

A pickle is a program for a stack machine: it names callables, calls them, and sets state on what
they return. `read_pickle` runs that program on descriptions instead. A name becomes a `Name`, a
call of `torch._utils._rebuild_tensor_v2` becomes a `StoredTensor` that says which bytes of the
checkpoint hold the tensor, and every other call becomes a `Foreign`. A dict becomes `Entries`, a
list of pairs, so that no key of the file is hashed. Nothing here recurses into what was read, so
depth does no harm.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

#: The most opcodes of one pickle. A published checkpoint with its optimizer has about 50,000.
MAX_OPCODES = 1_000_000


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Name:
    """A function or class that a pickle names, as `os.system`; it is never imported."""

    path: str


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Foreign:
    """An object that is not rebuilt; `of` is the path of the class or function that makes it."""

    of: str


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Entries:
    """A dict as its (key, value) pairs, in the order of the file."""

    pairs: list[Any] = field(default_factory=list)

    def named(self) -> dict[str, Any]:
        """The entries whose key is a string; the last one where a key is repeated."""
        return {
            pair[0]: pair[1]
            for pair in self.pairs
            if isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)
        }


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Storage:
    """A storage of a checkpoint: the class that held it, as `Name("torch.FloatStorage")`, its key
    in the file and its count of elements. Each is what the file says, of any type."""

    kind: Any
    key: Any
    count: Any


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class StoredTensor:
    """A tensor as a view of a storage, in elements; `dtype` is the name of a dtype where the
    storage does not tell it, else None. Each is what the file says, of any type."""

    storage: Any
    offset: Any
    size: Any
    stride: Any
    dtype: Any = None


def read_pickle(file: BinaryIO, storages: list[Storage] | None = None) -> Any:
    """Describe the object of the pickle that begins at the file's position, and end behind it; the
    caller bounds the file's size, and so the memory that is taken. `storages` takes every storage
    the pickle refers to. Raises ValueError or LookupError where the pickle is damaged, of more than
    `MAX_OPCODES` opcodes, or has an opcode that `torch.save` does not write."""
    machine = _Machine([] if storages is None else storages)
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number >= MAX_OPCODES:
            raise ValueError(f"its pickle has more than {MAX_OPCODES:,} opcodes")
        machine.step(opcode.name, argument)
    return machine.take(1)[0]


class _Machine:
    """The pickle machine's stack, the stacks below its marks, and its memo."""

    def __init__(self, storages: list[Storage]) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages = storages

    def take(self, count: int | None) -> list[Any]:
        """Take the topmost values off the stack; for None all above the topmost mark, and it."""
        if count is None:
            values, self.stack = self.stack, self.below.pop()
            return values
        if len(self.stack) < count:
            raise LookupError("its pickle takes a value from an empty stack")
        cut = len(self.stack) - count
        values, self.stack[cut:] = self.stack[cut:], []
        return values

    def _target(self, kind: type[Any]) -> Any:
        """The topmost value, which must be of this kind, or stand for an object that may be."""
        if isinstance(self.stack[-1], kind):
            return self.stack[-1]
        if isinstance(self.stack[-1], Foreign):
            return kind([])  # what is added to it is not read
        raise ValueError("its pickle adds values to something that is neither a list nor a dict")

    def step(self, opcode: str, argument: Any) -> None:
        """Carry out one opcode of `pickletools.opcodes`."""
        if opcode in _MAKING:
            count, make = _MAKING[opcode]
            made = make(self.take(count), argument)
            self.stack.append(made)
            if isinstance(made, Storage):
                self.storages.append(made)
        elif opcode in _ADDING:
            values, add = self.take(_ADDING[opcode]), opcode[:3]
            if add == "SET":
                self._target(Entries).pairs.extend(_pairs(values))
            elif add == "APP":
                self._target(list).extend(values)
        elif opcode.endswith("PUT") or opcode == "MEMOIZE":
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif opcode.endswith("GET"):
            self.stack.append(self.memo[argument])
        elif opcode == "DUP":
            self.stack.append(self.stack[-1])
        elif opcode == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"its pickle has the opcode {opcode}, which is not read")


def _pairs(values: list[Any]) -> list[Any]:
    if len(values) % 2:
        raise ValueError("its pickle has a key without a value")
    return list(zip(values[::2], values[1::2], strict=True))


def _named(module: Any, name: Any) -> Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError("its pickle names a class by something else than text")
    return Name(f"{module}.{name}")


def _called(function: Any, arguments: Any) -> Any:
    """What stands for the result of a call in a pickle."""
    if not isinstance(arguments, tuple):
        raise ValueError("its pickle calls a function with something else than a tuple")
    path = function.path if isinstance(function, Name) else ""
    match path, arguments:
        case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", (s, o, n, t, *_):
            return StoredTensor(s, o, n, t)
        case "torch._utils._rebuild_tensor_v3", (s, o, n, t, _, _, dtype, *_):
            return StoredTensor(s, o, n, t, dtype)
        case (
            "torch._utils._rebuild_parameter"
            | "torch._utils._rebuild_parameter_with_state"
            | "torch.Size",
            (value, *_),
        ):
            return value
        case "collections.OrderedDict" | "builtins.dict" | "__builtin__.dict", (list(pairs),):
            return Entries(pairs)  # as Python 2 wrote it
        case "collections.OrderedDict" | "builtins.dict" | "__builtin__.dict", ():
            return Entries()
    return Foreign(path or getattr(function, "of", "an unnamed class"))


def _referenced(reference: Any) -> Any:
    """What stands for an object that a pickle keeps outside of itself."""
    match reference:
        case ("storage", kind, key, _, count) | ("storage", kind, key, _, count, None):
            return Storage(kind, key, count)
        case ("module", Name(path=path), *_):
            return Foreign(path)
    raise ValueError("its pickle refers to something else than a storage")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
)
_TUPLES = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

#: Opcodes that make a value: how many values they take for it (see `_Machine.take`), and what they
#: make of these and of their argument.
_MAKING: dict[str, tuple[int | None, Callable[[list[Any], Any], Any]]] = {
    **dict.fromkeys(_LITERALS, (0, lambda _, literal: literal)),
    **{name: (0, lambda *_, value=value: value) for name, value in _CONSTANTS.items()},
    **{name: (count, lambda values, _: tuple(values)) for name, count in _TUPLES.items()},
    "EMPTY_LIST": (0, lambda *_: []),
    "LIST": (None, lambda values, _: values),
    "EMPTY_DICT": (0, lambda *_: Entries()),
    "DICT": (None, lambda values, _: Entries(_pairs(values))),
    "EMPTY_SET": (0, lambda *_: Foreign("builtins.set")),
    "FROZENSET": (None, lambda *_: Foreign("builtins.frozenset")),
    "INST": (None, lambda _, name: Foreign(name.replace(" ", "."))),
    "OBJ": (None, lambda values, _: _called(values[0], tuple(values[1:]))),
    "REDUCE": (2, lambda values, _: _called(*values)),
    "NEWOBJ": (2, lambda values, _: _called(*values)),
    "NEWOBJ_EX": (3, lambda values, _: _called(*values[:2])),
    "BINPERSID": (1, lambda values, _: _referenced(*values)),
    "GLOBAL": (0, lambda _, name: Name(name.replace(" ", "."))),
    "STACK_GLOBAL": (2, lambda values, _: _named(*values)),
}

#: Opcodes that take values and add them to the value below, if to anything: the state that a pickle
#: sets on an object, and what is in a set, are dropped.
_ADDING = {
    **{"APPEND": 1, "APPENDS": None, "SETITEM": 2, "SETITEMS": None},
    **{"BUILD": 1, "POP": 1, "ADDITEMS": None, "POP_MARK": None},
}
