"""Typer's parameters made from the options dataclass of a command."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from .. import quiet
from ..options import Options, Size, alternatives, info_of, words_of
from . import output
from .app import app
from .exit_codes import command

Chosen = TypeVar("Chosen", bound=Options)
Body = Callable[[Chosen], None]

#: What the help shows for the value of an option.
_METAVARS = {Path: "PATH", int: "N", float: "NUMBER", str: "TEXT"}


def add_command(
    options_type: type[Chosen], *, to: typer.Typer = app
) -> Callable[[Body[Chosen]], Body[Chosen]]:
    """Register a function of the options as the command of those options.

    The parameters and their help come from the fields of the dataclass, the help of the command
    from the function's docstring. An error becomes an exit code, see `exit_codes.command`.
    """

    def decorate(body: Body[Chosen]) -> Body[Chosen]:
        def run(json_: bool, quiet_: bool, debug: bool, **values: Any) -> None:
            output.json_wanted, quiet.wanted = json_, quiet_
            try:
                with command(debug):
                    options = options_from(options_type, values)
                    options.check_files()
                    body(options)
            finally:  # a program may call the library afterwards
                output.json_wanted = quiet.wanted = False

        parameters = parameters_of(options_type)
        run.__doc__ = help_text(body.__doc__ or "")
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.options_type = options_type  # type: ignore[attr-defined]
        to.command(options_type.command.split()[-1])(run)
        return body

    return decorate


def options_from(options_type: type[Chosen], values: Mapping[str, Any]) -> Chosen:
    """The options for the values that Typer parsed; None is an option that was not given."""
    return options_type(**{name: value for name, value in values.items() if value is not None})


def help_text(docstring: str) -> str:
    """A command's docstring with the command after `Example:` on lines that Typer leaves alone,
    broken before an option where they are long."""
    text, _, example = inspect.cleandoc(docstring).partition("Example:")
    words = example.replace("`", "").split()
    lines = [""]
    for word in words:
        if word.startswith("--") and len(lines[-1]) > 55:
            lines[-1] += " \\"
            lines.append("     ")
        lines[-1] += f" {word}"
    return "\n".join([text.strip(), "", "Example:", "", "\b", *(f" {line}" for line in lines)])


def parameters_of(options_type: type[Options]) -> list[inspect.Parameter]:
    """One parameter for each field, then `--json`, `--quiet` and `--debug`."""
    hints = typing.get_type_hints(options_type)
    common = {
        "json_": typer.Option("--json", help="One JSON document on stdout, the rest on stderr."),
        "quiet_": typer.Option("--quiet", "-q", help="Show the result alone, and no progress."),
        "debug": typer.Option("--debug", help="Show the traceback of an error."),
    }
    return [
        *(_parameter(field, hints[field.name]) for field in dataclasses.fields(options_type)),
        *(_keyword(name, bool, info, False) for name, info in common.items()),
    ]


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    info = info_of(field)
    repeated = typing.get_origin(hint) is tuple and hint != Size
    of_one = typing.get_args(hint)[0] if repeated else hint
    settings: dict[str, Any] = {"help": info.help, "envvar": info.envvar}
    if words := info.words or words_of(of_one):
        settings["metavar"] = info.flag.lstrip("-").upper()
        settings["help"] += f" One of: {', '.join(words)}."
    elif Size in alternatives(of_one):
        settings["metavar"] = "HxW"
    plain = _typer_type(of_one)
    if plain is not bool:
        settings.setdefault("metavar", _METAVARS[plain])
    annotation = list[plain] if repeated else plain  # type: ignore[valid-type]
    required = field.default is dataclasses.MISSING
    default = inspect.Parameter.empty if required else _typer_default(field.default)
    if not required and (default is None or default == []):
        annotation, default = annotation | None, None
        settings["show_default"] = False
    if not info.flag:
        settings["metavar"] = field.name.upper()
        return _keyword(field.name, annotation, typer.Argument(**settings), default)
    flags = f"{info.flag}/--no-{info.flag[2:]}" if field.default is True else info.flag
    return _keyword(field.name, annotation, typer.Option(flags, **settings), default)


def _typer_type(hint: Any) -> Any:
    """The type that Typer parses a value with; the options dataclass converts the text of all
    others, so that its error is the one that users see."""
    (part, *others) = alternatives(hint)
    return part if not others and part in (bool, int, float, Path) else str


def _typer_default(default: Any) -> Any:
    if isinstance(default, tuple):
        return list(map(str, default))
    return default if isinstance(default, (int, float, Path, type(None))) else str(default)


def _keyword(name: str, annotation: Any, info: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=Annotated[annotation, info])
