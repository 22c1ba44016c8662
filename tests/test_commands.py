"""Every command: its options survive the command line, its help is whole, and it is documented."""

import dataclasses
import re
import shlex
import typing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dfvt_deploy.cli import app
from dfvt_deploy.cli.parameters import options_from
from dfvt_deploy.options import Size, alternatives, choices, info_of

ROOT = Path(__file__).parent.parent
GROUP = typer.main.get_command(app)
COMMANDS = sorted(name for name, command in GROUP.commands.items() if not command.hidden)
CONTAINER = [f"container {name}" for name in GROUP.commands["container"].commands]

#: Other fields that a field needs, where its command refuses it alone.
COMPANIONS: dict[tuple[str, str], dict[str, object]] = {
    ("populate", "flavor"): {"backend": "tensorrt"},
    ("batch", "address"): {"engine": "ray"},
    ("batch", "url"): {"engine": "triton"},
    ("batch", "in_flight"): {"engine": "triton"},
    ("build-trt", "compute_capability"): {"flavor": "rtx"},
    ("convert", "method"): {"precision": "int8"},
    ("convert", "target"): {"precision": "int8"},
    ("convert", "weight_bits"): {"precision": "int8"},
    ("serve", "expose_embedded"): {"host": "10.0.0.1"},
    ("serve", "trace_every"): {"trace_url": "http://127.0.0.1:4318"},
    ("container start", "trace_every"): {"trace_url": "http://127.0.0.1:4318"},
    ("validate", "protocol"): {"serve": True},
    ("validate", "repository"): {"serve": True},
    ("explain", "runtime"): {"method": "occlusion"},
    ("explain", "precision"): {"method": "occlusion"},
    ("explain", "url"): {"method": "occlusion"},
    ("explain", "protocol"): {"method": "occlusion", "url": "127.0.0.1:8000"},
    ("explain", "grid"): {"method": "occlusion"},
    ("export", "backbone_checkpoint"): {"task": "detection"},
    ("export", "weights"): {"checkpoint": "t.pth"},
    ("promote", "unvalidated"): {"reason": "why"},
    ("versions", "prune"): {"model": "m"},
    ("versions", "prune_previous"): {"model": "m", "prune": 2},
    **{
        ("bench", name): {"serve": True}
        for name in (
            "repository",
            "protocols",
            "concurrency",
            "rate",
            "window",
            "slo_ms",
            "fast_decode",
        )
    },
    ("bench", "compare"): {"models": ("a", "b")},
    ("bench", "url"): {"models": ("a",)},
    ("bench", "served"): {"models": ("a",), "url": "127.0.0.1:8001"},
    ("validate", "served"): {"url": "127.0.0.1:8001"},
    ("validate", "dataset"): {"data": "data"},
    ("validate", "data"): {"dataset": "imagenet"},
    ("validate", "max_drop"): {"dataset": "imagenet", "data": "data"},
}

#: Values of fields that take few texts.
VALUES = {
    ("export", "name"): "my.model-1",
    ("build-trt", "target"): "tritonserver:26.07",
    ("convert", "precision"): "fp16",
    ("convert", "max_side"): 96,
    ("serve", "trace_url"): "http://127.0.0.1:4318/v1/traces",
    ("container start", "trace_url"): "http://127.0.0.1:4318/v1/traces",
}


def command_of(name):
    group, _, inner = name.rpartition(" ")
    return (GROUP.commands[group] if group else GROUP).commands[inner]


def options_type(name):
    return getattr(command_of(name).callback, "options_type", None)


def parsed(line: str):
    """The options that Typer reads from a command line."""
    program, name, *words = shlex.split(line)
    assert program == "dfvt-deploy"
    if name == "container":
        name = f"{name} {words.pop(0)}"
    context = command_of(name).make_context(name, words)
    values = {k: v for k, v in context.params.items() if k not in ("json_", "quiet_", "debug")}
    return options_from(options_type(name), values)


def other_value(field, hint):
    """A value of a field's type that is not its default."""
    if typing.get_origin(hint) is tuple and hint != Size:
        item = typing.get_args(hint)[0]
        first = other_value(field, item)
        return (first, "it's -2") if item is str else (first,)
    if words := list(choices(hint)):
        return next(word for word in reversed(words) if word != field.default)
    (part,) = alternatives(hint)
    if part is bool:
        return not field.default
    if part == Size:
        return (64, 96)
    if part in (int, float):
        info = info_of(field)
        low = 1 if info.minimum is None else info.minimum
        value = low + (1 if part is int else 0.25)
        return part(value if value != field.default else low)
    return part("a b/-c*") if part is Path else "-some 'text'"


def required(name):
    kind = options_type(name)
    hints = typing.get_type_hints(kind)
    return {
        field.name: VALUES.get((name, field.name))
        or ([*choices(hints[field.name])] or [other_value(field, hints[field.name])])[0]
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING
    }


FIELDS = [
    (name, field.name)
    for name in (*COMMANDS, *CONTAINER)
    if options_type(name)
    for field in dataclasses.fields(options_type(name))
]


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=map("-".join, FIELDS))
def test_the_command_line_of_every_option_gives_it_again(name, field):
    kind = options_type(name)
    (found,) = (each for each in dataclasses.fields(kind) if each.name == field)
    value = VALUES.get((name, field)) or other_value(found, typing.get_type_hints(kind)[field])
    values = {**required(name), **COMPANIONS.get((name, field), {}), field: value}
    options = kind(**values)
    assert getattr(options, field) != found.default
    assert parsed(options.command_line()) == options


@pytest.mark.parametrize("name", [name for name in COMMANDS if options_type(name)])
def test_help_is_whole_at_80_columns_and_has_an_example(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for flag in ("-h", "--help"):
        text = CliRunner().invoke(app, [name, flag]).output
        assert "…" not in text and "..." not in re.sub(r"[]}]\.\.\.", "", text)
        assert max(map(len, text.splitlines())) <= 80
        assert "--json" in text
    example = (
        text.partition("Example:")[2].partition("\n\nArguments:")[0].partition("\n\nOptions:")[0]
    )
    line = example.replace("\\\n", " ").strip()
    assert line.startswith(f"dfvt-deploy {name}")
    parsed(line)


def test_the_list_of_commands_is_whole_at_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for flag in ("-h", "--help"):
        text = CliRunner().invoke(app, [flag]).output
        assert "…" not in text and "..." not in text.replace("[ARGS]...", "")
        assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name):
    assert f"| `dfvt-deploy {name}` |" in (ROOT / "README.md").read_text()


def test_no_option_is_refused_with_the_name_of_a_field():
    """Messages name options as they are typed."""
    result = CliRunner().invoke(app, ["export", "--variant", "t", "--num-classes", "0"])

    assert "--num-classes 0 is outside" in result.output


IGNORED = [
    ("export --variant t --nms soft", "--nms soft is for detection"),
    ("export --variant t --static 64x64", "--static 64x64 is not for classification"),
    ("export --variant t --task detection --logits", "--logits is for segmentation"),
    ("export --variant t --backbone-checkpoint published", "is not for classification"),
    ("export --variant t --weights ema", "--weights ema chooses in a checkpoint"),
    (
        "export --variant t --task detection --checkpoint published --backbone-checkpoint b",
        "--backbone-checkpoint b is for models without --checkpoint",
    ),
    ("convert --precision fp16 --target tensorrt", "--target tensorrt is for --precision int8"),
    ("convert --precision int8 --data-max 7", "--data-max 7 is for --precision fp16"),
    ("build-trt --compute-capability 8.9", "--compute-capability 8.9 is for --flavor rtx"),
    ("build-trt --flavor rtx --no-timing-cache", "--no-timing-cache is for --flavor tensorrt"),
    ("build-trt --no-timing-cache --timing-cache-folder f", "--timing-cache-folder f does nothing"),
    ("validate m --protocol http", "--protocol http is for --serve or --url"),
    ("validate m --repository r", "--repository r is for --serve"),
    ("validate m --against onnx --checkpoint c", "--checkpoint c is for --against fp32"),
    ("populate --backend tensorrt --threads 2", "--threads 2 is for a network on the CPU"),
    ("serve --docker --log-file l", "--log-file l does nothing with --docker"),
    ("serve --ephemeral-ports --grpc-port 9", "--grpc-port 9 does nothing with --ephemeral-ports"),
    ("batch i --model m --output o --in-flight 2", "--in-flight 2 is for --engine triton"),
    ("batch i --model m --output o --address auto", "--address auto is for --engine ray"),
    (
        "batch i --model m --output o --engine triton --max-pixels 9",
        "--max-pixels 9 is decided by the server",
    ),
    ("quickstart --example digits --checkpoint c", "--checkpoint c is decided by --example digits"),
    ("quickstart --example digits --variant s", "--variant s is decided by --example digits"),
    ("quickstart --example digits --task detection", "--task detection is decided by --example"),
    ("quickstart --example digits --image i", "--image i is decided by --example digits"),
    ("serve --trace-every 5", "--trace-every 5 is for --trace-url"),
    ("serve --expose-embedded", "--expose-embedded does nothing with --host 127.0.0.1"),
]


@pytest.mark.parametrize(("line", "message"), IGNORED, ids=[line for line, _ in IGNORED])
def test_an_option_that_would_be_ignored_is_refused(line, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, line.split())

    assert done.exit_code == 2
    assert message in done.output


def test_the_help_offers_the_words_that_a_command_takes():
    shown = {
        c: CliRunner().invoke(app, [c, "-h"]).output for c in ("convert", "build-trt", "bench")
    }
    words = {command: " ".join(text.split()) for command, text in shown.items()}
    assert "Precision of the new file. One of: fp16, int8." in words["convert"]
    assert "One of: fp32, fp16, int8, all." in words["build-trt"]
    assert "--batch N " in words["bench"]
    assert "<" not in words["bench"].partition("Options:")[2]
