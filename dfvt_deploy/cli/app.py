"""The application that every command belongs to."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import StageFailed
from .output import prepare_streams, print_line

#: Commands in the order of a deployment.
COMMANDS = (
    *("quickstart", "doctor", "models", "export", "convert", "build-trt", "validate", "populate"),
    *("versions", "promote", "rollback", "lint", "serve", "predict", "bench", "tune", "explain"),
    *("plan", "batch", "demo"),
)


class _InOrder(TyperGroup):
    """Lists the commands in the order of `COMMANDS`, each with its whole first sentence."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [*COMMANDS, *sorted({*super().list_commands(ctx)} - {*COMMANDS})]

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [
            (name, " ".join((command.help or "").split("\n\n")[0].split()))
            for name, command in found
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    cls=_InOrder,
    name="dfvt-deploy",
    help="From a DFvT checkpoint to answers from NVIDIA Triton, checked at every step.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(show: bool) -> None:
    if show:
        print_line(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of `dfvt-deploy`."""
    prepare_streams()
    try:
        app()
    except OSError:  # Typer's own help or message, on a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        sys.exit(StageFailed.exit_code)
