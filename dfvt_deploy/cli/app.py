"""The application that every command belongs to."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperGroup

from .. import __version__

#: Commands in the order of a deployment.
_ORDER = (
    "quickstart",
    "doctor",
    "models",
    "export",
    "convert",
    "build-trt",
    "validate",
    "populate",
    "serve",
    "predict",
)


class _InOrder(TyperGroup):
    """Lists the commands in the order they are used, and others after them."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        names = super().list_commands(ctx)
        return sorted(names, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))


app = typer.Typer(
    cls=_InOrder,
    name="dfvt-deploy",
    help="From a DFvT checkpoint to answers from NVIDIA Triton, checked at every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(show: bool) -> None:
    if show:
        print(__version__)
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
    app()
