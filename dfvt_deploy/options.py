"""The options of a command as one frozen dataclass.

The library takes them, the manifest records them, and `command_line` writes the command that gives
them again, so the three cannot disagree. The command line makes its parameters and its help from
the same fields.

    class ConvertOptions(Options):
        command = "convert"
        models: tuple[str, ...] = argument((), help="Names under --exports; all by default.")
        precision: Precision = option(help="Precision of the new file.")
        images: int | None = option(None, help="Most calibration images.", minimum=1)

A field is a str, int, float, bool, Path, `Size`, a `StringEnum`, a Literal of words, one of these
or None, a union of a `StringEnum` and a Literal, or a tuple of any length of these, whose option
may be given several times.
"""

import dataclasses
import functools
import inspect
import re
import shlex
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from typing_extensions import dataclass_transform

from .errors import BadInput

#: Height and width in pixels, written `512x704`.
Size: TypeAlias = tuple[int, int]

_INFO = "option"

Chosen = TypeVar("Chosen", bound="Options")
Result = TypeVar("Result")


@dataclass(frozen=True)
class OptionInfo:
    """What the command line knows about a field besides its type: its help, its flag (`--` is the
    field's name, empty a positional argument), the limits of a number, both included, a variable,
    and the words that the help offers where `check` refuses others of the type."""

    help: str
    flag: str = "--"
    minimum: float | None = None
    maximum: float | None = None
    envvar: str | None = None
    words: tuple[str, ...] = ()


def option(default: Any = dataclasses.MISSING, **info: Any) -> Any:
    """A field given as a flag, required without a default; `info` are fields of `OptionInfo`."""
    return dataclasses.field(default=default, metadata={_INFO: OptionInfo(**info)})


def argument(default: Any = dataclasses.MISSING, *, help: str) -> Any:
    """A field given by position on the command line. It is required without a default."""
    return option(default, help=help, flag="")


@dataclass_transform(frozen_default=True, kw_only_default=True)
@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of every command's options, each a frozen dataclass. Values are converted to their
    field's type, so that texts such as `"fp16"` or `"512x704"` and lists may be given. Raises
    BadInput where a value is not of its type or limits, or `check` refuses the combination."""

    command: ClassVar[str]

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            info = info_of(field)
            name = info.flag or field.name
            value = _converted(getattr(self, field.name), hints[field.name], name)
            _check_limits(value, info, field.name)
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raise BadInput for options that do not go together. Subclasses override it."""

    def refuse(self, reason: str, *names: str) -> None:
        """Raise BadInput where one of these fields has another value than its default, so that none
        is accepted and then ignored. `reason` follows the option: `is for --backend tensorrt`."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in names and value != field.default:
                raise BadInput(f"{' '.join(_words(info_of(field), value))} {reason}")

    def check_files(self) -> None:
        """Raise BadInput, before any work is done, for a missing file. Subclasses override it."""

    def command_line(self) -> str:
        """The shell command that gives these options again. Options at their default are left out,
        and bytes of a file name that are not UTF-8 become backslash escapes."""
        words: list[str] = []
        arguments: list[str] = []
        for field in dataclasses.fields(self):
            value, info = getattr(self, field.name), info_of(field)
            if value == field.default:
                continue
            repeated = _is_repeated(typing.get_type_hints(type(self))[field.name])
            for each in value if repeated else (value,):
                (words if info.flag else arguments).extend(_words(info, each))
        if any(text.startswith("-") for text in arguments):
            arguments = [*words, "--", *arguments]
        else:
            arguments += words
        line = shlex.join(["dfvt-deploy", *self.command.split(), *arguments])
        return line.encode(errors="backslashreplace").decode()


def from_fields(
    kind: type[Chosen], *names: str
) -> Callable[[Callable[[Chosen], Result]], Callable[..., Result]]:
    """Let a function of options be called with their fields instead.

        @from_fields(PlanOptions, "figures")
        def plan(options: PlanOptions) -> Plan: ...

    `plan("figures.json", rate=5)` is then `plan(PlanOptions(figures="figures.json", rate=5))`.

    names: fields that may be given by position. `*paths` takes all that are left, and
        `exports/model` the folder of an exported model, which gives the fields of both names.
    """

    def decorate(function: Callable[[Chosen], Result]) -> Callable[..., Result]:
        signature = _signature_of(kind, names)

        @functools.wraps(function)
        def call(*values: Any, **fields: Any) -> Result:
            if values and isinstance(values[0], kind):
                return function(values[0])
            given = signature.bind_partial(*values).arguments
            for folder, _, model in (name.partition("/") for name in names):
                if model in given:
                    path = Path(given[model])
                    several = _is_repeated(typing.get_type_hints(kind)[model])
                    given |= {folder: path.parent, model: (path.name,) if several else path.name}
            return function(kind(**given, **fields))

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


def _signature_of(kind: type[Options], names: Sequence[str]) -> inspect.Signature:
    """The parameters of a function of `from_fields`, as `help` shows them."""
    fields = dict(inspect.signature(kind).parameters)
    given: list[inspect.Parameter] = []
    for name in reversed(names):
        field = fields.pop(name.lstrip("*").rpartition("/")[2])
        field = field.replace(kind=field.POSITIONAL_OR_KEYWORD)
        if name.startswith("*"):
            field = field.replace(kind=field.VAR_POSITIONAL, default=field.empty)
        elif given and given[0].default is field.empty:
            field = field.replace(default=field.empty)
        given.insert(0, field)
    return inspect.Signature([*given, *fields.values()])


def info_of(field: dataclasses.Field[Any]) -> OptionInfo:
    """The `OptionInfo` of a field made with `option` or `argument`."""
    info: OptionInfo = field.metadata[_INFO]
    if info.flag != "--":
        return info
    return dataclasses.replace(info, flag=f"--{field.name.replace('_', '-')}")


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union without None; the type itself where it is none."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(part for part in typing.get_args(hint) if part is not type(None))
    return (hint,)


def choices(hint: Any) -> dict[str, Any]:
    """The values of a field of `StringEnum` or Literal types by word; empty for other types."""
    values: list[Any] = []
    for part in alternatives(hint):
        if typing.get_origin(part) is Literal:
            values += typing.get_args(part)
        elif isinstance(part, type) and issubclass(part, Enum):
            values += part
    return {str(value): value for value in values}


def _is_repeated(hint: Any) -> bool:
    return typing.get_args(hint)[1:] == (Ellipsis,)


def _converted(value: Any, hint: Any, name: str) -> Any:
    if value is None and type(None) in typing.get_args(hint):
        return None
    if _is_repeated(hint):
        if isinstance(value, str):
            raise BadInput(f"{name} takes several values, not the text {value!r}")
        return tuple(_converted(each, typing.get_args(hint)[0], name) for each in value)
    if known := choices(hint):
        if str(value) not in known:
            raise BadInput(f"{name} {str(value)!r} is none of {', '.join(known)}")
        return known[str(value)]
    (part,) = alternatives(hint)
    if part == Size:
        return _size(value, name)
    if isinstance(value, part) and isinstance(value, bool) is (part is bool):
        return value
    if part in (Path, str) and isinstance(value, (str, Path)):
        return part(value)
    if part is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kind = {int: "a whole number", float: "a number", bool: "true or false"}.get(part, "a path")
    raise BadInput(f"{name} {value!r} is not {kind}")


def _size(value: Any, name: str) -> Size:
    if isinstance(value, str):
        found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", value)
        if found is None:
            raise BadInput(f"{name} {value!r} is not height x width, such as 512x704")
        value = found.groups()
    height, width = map(int, value)
    return height, width


def _check_limits(value: Any, info: OptionInfo, name: str) -> None:
    low, high = info.minimum, info.maximum
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, bool) or not isinstance(each, (int, float)):
            continue
        # Written so that a NaN is refused.
        if not ((low is None or each >= low) and (high is None or each <= high)):
            limits = f"below {low:g}" if high is None else f"outside {low or 0:g}..{high:g}"
            raise BadInput(f"{info.flag or name} {each:g} is {limits}")


def _words(info: OptionInfo, value: Any) -> list[str]:
    """The words that give an option one value on the command line."""
    if isinstance(value, bool):
        return [info.flag if value else info.flag.replace("--", "--no-", 1)]
    text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if isinstance(value, float) and float(f"{value:g}") == value:
        text = f"{value:g}"
    if not info.flag:
        return [text]
    return [f"{info.flag}={text}"] if text.startswith("-") else [info.flag, text]
