"""Typer's parameters made from the options dataclass of a command."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from .. import quiet
from ..options import Options, Size, alternatives, choices, info_of
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
    info, default = info_of(field), field.default
    repeated = typing.get_origin(hint) is tuple and hint != Size
    of_one = typing.get_args(hint)[0] if repeated else hint
    part, *others = alternatives(of_one)
    # The options dataclass converts the text of other types, so that users see its error.
    plain = part if not others and part in (bool, int, float, Path) else str
    settings: dict[str, Any] = {"help": info.help, "envvar": info.envvar}
    if words := info.words or choices(of_one):
        settings["metavar"] = info.flag.lstrip("-").upper()
        settings["help"] += f" One of: {', '.join(words)}."
    elif plain is not bool:
        settings["metavar"] = "HxW" if part == Size else _METAVARS[plain]
    annotation = list[plain] if repeated else plain  # type: ignore[valid-type]
    if default is dataclasses.MISSING:
        default = inspect.Parameter.empty
    elif default in (None, ()):
        annotation, default = annotation | None, None
        settings["show_default"] = False
    elif isinstance(default, tuple):
        default = list(map(str, default))
    elif not isinstance(default, (int, float, Path)):
        default = str(default)
    if not info.flag:
        settings["metavar"] = field.name.upper()
        return _keyword(field.name, annotation, typer.Argument(**settings), default)
    flags = f"{info.flag}/--no-{info.flag[2:]}" if default is True else info.flag
    return _keyword(field.name, annotation, typer.Option(flags, **settings), default)


def _keyword(name: str, annotation: Any, info: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=Annotated[annotation, info])
