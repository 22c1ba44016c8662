"""Options as data: conversion, limits, and the command line that gives them again."""

import inspect
import shlex
from pathlib import Path
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner

from dfvt_deploy.cli.parameters import add_command
from dfvt_deploy.errors import BadInput
from dfvt_deploy.options import Options, Size, argument, from_fields, option
from dfvt_deploy.types import Precision, Task


class SampleOptions(Options):
    command = "sample"
    models: tuple[str, ...] = argument((), help="Names of models.")
    precision: Precision = option(help="Precision of the file.")
    task: Task | Literal["all"] = option(Task.DETECTION, help="Task of the model.")
    images: int | None = option(None, help="Most images.", minimum=1)
    share: float = option(0.5, help="A share.", minimum=0, maximum=1)
    canvas: Size | None = option(None, help="Fixed size.", flag="--static")
    folder: Path | None = option(None, help="A folder.")
    keep: tuple[str, ...] = option((), help="A node; may be given again.")
    cache: bool = option(True, help="Keep measurements.")
    tf32: bool = option(False, help="Use TF32.")


def test_texts_become_the_types_of_the_fields():
    found = SampleOptions(
        models=["a"], precision="fp16", task="all", canvas="64x96", folder="b", share=1
    )
    assert found == SampleOptions(
        models=("a",),
        precision=Precision.FP16,
        task="all",
        canvas=(64, 96),
        folder=Path("b"),
        share=1.0,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"precision": "fp61"}, "--precision 'fp61' is none of fp32, fp16, bf16, int8"),
        ({"task": "every"}, "--task 'every' is none of classification, detection"),
        ({"images": 0}, "--images 0 is below 1"),
        ({"images": "x"}, "--images 'x' is not a whole number"),
        ({"images": True}, "--images True is not a whole number"),
        ({"share": 1.5}, "--share 1.5 is outside 0..1"),
        ({"share": float("nan")}, "--share nan is outside 0..1"),
        ({"canvas": "64"}, "--static '64' is not height x width, such as 512x704"),
        ({"keep": "a"}, "--keep takes several values, not the text 'a'"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, message):
    with pytest.raises(BadInput) as refused:
        SampleOptions(**{"precision": "fp16", **values})
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"models": ("a b", "c"), "keep": ("x", "-y"), "cache": False, "tf32": True},
        {"models": ("-a",), "share": 1 / 3, "images": 7, "folder": Path("a 'b'"), "task": "all"},
        {"canvas": (64, 96), "share": 1e-9},
    ],
)
def test_the_command_line_gives_the_same_options_again(values):
    app = typer.Typer()
    parsed: list[SampleOptions] = []
    add_command(SampleOptions, to=app)(lambda options: parsed.append(options))
    options = SampleOptions(precision="fp16", **values)
    words = shlex.split(options.command_line())
    assert words[:2] == ["dfvt-deploy", "sample"]
    result = CliRunner().invoke(app, words[2:])
    assert result.exit_code == 0, result.output
    assert parsed == [options]


def test_a_function_of_options_takes_their_fields_too():
    options = SampleOptions(models=("a",), precision="fp16", folder="exports")

    @from_fields(SampleOptions, "folder/models", "precision")
    def one(options: SampleOptions) -> SampleOptions:
        return options

    @from_fields(SampleOptions, "*models")
    def several(options: SampleOptions) -> SampleOptions:
        return options

    assert one(options) == one("exports/a", precision="fp16") == one("exports/a", "fp16") == options
    assert several("a", "b", precision="fp16").models == ("a", "b")
    assert several(precision="fp16").models == ()
    with pytest.raises(TypeError, match="too many positional arguments"):
        one("exports/a", "fp16", 3)
    assert list(inspect.signature(one).parameters)[:2] == ["models", "precision"]
    assert str(inspect.signature(several)).startswith("(*models: ")
