"""Options that commands share, and what turns their text into values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ..errors import DfvtError
from ..types import Precision, Task, Variant

Choice = TypeVar("Choice", Variant, Task, Precision)
Result = TypeVar("Result")

Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, the rest on stderr.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
VariantOption = Annotated[str, typer.Option("--variant", help="t, s, b or all.")]
TaskOption = Annotated[
    str, typer.Option("--task", help="classification, detection, segmentation, all.")
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="A file, or 'published' for the authors' release. Untrained weights without it.",
    ),
]
OutputOption = Annotated[Path, typer.Option("--output", help="Folder of exported models.")]
RepositoryOption = Annotated[Path, typer.Option("--repository", help="Triton model repository.")]


@contextmanager
def each(items: Sequence[tuple[Any, ...]], call: Callable[..., Result]) -> Iterator[list[Result]]:
    """Call for each item and give what was done to the block; what failed is raised after it.

    One item's error is raised as it is.
    """
    from ..errors import StageFailed

    done: list[Result] = []
    failed: list[str] = []
    for item in items:
        try:
            done.append(call(*item))
        except DfvtError as error:
            if len(items) == 1:
                raise
            failed.append(f"{' '.join(map(str, item))}: {error}")
    yield done
    if failed:
        raise StageFailed(f"{len(failed)} of {len(items)} failed: " + "; ".join(failed))


def variants(value: str) -> list[Variant]:
    return list(Variant) if value == "all" else [choice(Variant, "variant", value)]


def tasks(value: str) -> list[Task]:
    return list(Task) if value == "all" else [choice(Task, "task", value)]


def canvas(value: str | None, option: str = "--static") -> tuple[int, int] | None:
    """Height and width of `HxW`."""
    from ..errors import BadInput

    if value is None:
        return None
    sides = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", value)
    if sides is None:
        raise BadInput(f"{option} {value!r} is not HxW, as 512x512")
    return int(sides[1]), int(sides[2])


def choice(kind: type[Choice], what: str, value: str, more: tuple[str, ...] = ("all",)) -> Choice:
    from ..errors import BadInput

    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(kind) + "".join(f", {choice}" for choice in more)
        raise BadInput(f"{what} {value!r} is none of {choices}") from None
