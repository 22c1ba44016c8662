"""The code blocks of the tutorials and of the request examples: each runs, and prints what stands
below it. Of other pages those in `OTHERS` run; test_code_blocks.py parses the rest."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dfvt_deploy.cli import app
from dfvt_deploy.cli.serve import print_urls
from dfvt_deploy.data import SAMPLES
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve

from .test_commands import ROOT

DOCS = ROOT / "docs"
TUTORIALS = ("classification", "detection", "segmentation", "own-classes")

#: Blocks that are not run, by page, with the reason that the comment before each gives.
NOT_RUN = {
    "detection": [
        "trains for minutes; the tests have such a model",
        "a minute of CPU; the other tutorials convert",
    ],
    "segmentation": ["trains for minutes; the tests have such a model"],
    "own-classes": ["trains for minutes; the tests have such a model"],
    "serving": ["supervision is not installed where the tests run"],
}

#: What blocks of other pages that run begin with, in this order, in one folder.
OTHERS = {
    "README.md": ["from dfvt_deploy import export"],
    "docs/json.md": ["dfvt-deploy predict", "pip install jsonschema"],
    "docs/batch.md": ["pip install"],
    "docs/versions.md": ["dfvt-deploy populate dfvt_s_classification --no-promote"],
    "docs/lint.md": ["dfvt-deploy lint"],
}

BLOCK = re.compile(
    r"(?:<!-- not run: ([^>]+) -->\n)?^```(bash|python|text)\n(.*?)^```$", re.M | re.S
)
NUMBER = re.compile(r"(?:(?<= )-)?\d+(?:[.,]\d+)*(?:e[-+]\d+)?")


class Reader:
    """Does what a page says, in an empty folder, with a server on free ports in place of Triton's
    own, and compares what is printed with what the page shows: a number stands for any number, an
    ellipsis for the rest of a line or, alone, for any lines."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.server = None
        self.printed: str | None = ""
        self.names: dict[str, str] = {}
        self.kinds: list[str] = []

    def read(self, page: Path) -> None:
        for reason, kind, text in BLOCK.findall(page.read_text()):
            if reason:
                self.printed = None
            elif kind == "text":
                assert self.printed is None or self.shown(text), (
                    f"{page.name} shows\n{text}\nnot\n{self.printed}"
                )
            else:
                self.kinds.append(kind)
                self.printed = getattr(self, kind)(text)

    def shown(self, text: str) -> bool:
        lines = [_plain(line) for line in text.splitlines()]
        wanted = "\n".join(
            "(?:.*\n)*?.*" if line == "…" else re.escape(NUMBER.sub("0", line)).replace("…", ".*")
            for line in lines
        )
        printed = "\n".join(NUMBER.sub("0", _plain(line)) for line in self.printed.splitlines())
        return re.search(f"^{wanted}$", printed, re.M) is not None

    def bash(self, text: str) -> str:
        lines = self.as_here(text).replace("\\\n", " ").splitlines()
        lines = [line for line in lines if not line.startswith("pip ")]  # is there already
        printed = ""
        for ours, group in groupby(lines, lambda line: line.startswith("dfvt-deploy ")):
            each = list(group)
            printed += "".join(map(self.command, each) if ours else [self.program("\n".join(each))])
        return printed

    def program(self, text: str) -> str:
        words = ["bash", "-euo", "pipefail", "-c", text]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            words, capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        return done.stdout

    def command(self, line: str) -> str:
        words = shlex.split(line, comments=True)[1:]
        *words, target = words if ">" in words else [*words, ""]
        if words == ["serve"]:
            self.server = self.stack.enter_context(serve("model_repository"))
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                print_urls(self.server.urls())
            return printed.getvalue()
        if words[0] == "predict":
            words += ["--url", self.server.grpc_url]
        done = CliRunner().invoke(app, [word for word in words if word != ">"])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        if target:
            Path(target).write_text(done.stdout)
        return done.output

    def python(self, text: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(self.as_here(text), "page", "exec"), {})
        return printed.getvalue()

    def as_here(self, text: str) -> str:
        here = dict(self.names)
        if self.server is not None:
            here |= {"127.0.0.1:8000": self.server.http_url, "127.0.0.1:8001": self.server.grpc_url}
        for shown, name in here.items():
            text = text.replace(shown, name)
        return text


def _plain(line: str) -> str:
    """The line without what only makes a table."""
    return re.sub(r"[ ━─]+", " ", line).strip()


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.ExitStack() as stack:
        yield Reader(stack)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.heavy] if n == "detection" else []) for n in TUTORIALS],
)
def test_a_tutorial_runs_from_checkpoint_to_answers(name, reader, request):
    for folder in ("dfvt_deploy", "examples"):
        Path(folder).symlink_to(ROOT / folder)
    trained = {"detection": "detector", "segmentation": "shapes", "own-classes": "digits"}
    if name in trained:
        model = request.getfixturevalue(trained[name])
        shutil.copytree(model.checkpoint.parent, {"detection": "found"}.get(name, trained[name]))
    reader.read(DOCS / "tutorials" / f"{name}.md")
    assert reader.server is not None
    assert reader.kinds.count("bash") >= 5


@pytest.mark.heavy
def test_the_request_examples_run(reader, artifact_t, detector_artifact, shapes_artifact, tmp_path):
    for artifact in (detector_artifact, shapes_artifact):
        populate(artifact.directory, repository=tmp_path / "model_repository")
    reader.names = {"dfvt_t_detection": "detector", "dfvt_t_segmentation": "shapes"}  # small ones
    has_a_model_and_photographs(reader, artifact_t)
    reader.read(DOCS / "serving.md")
    assert reader.kinds == ["bash", "bash", "python", "python", "python"]


def has_a_model_and_photographs(reader, artifact):
    """The folder that pages begin with: DFvT-T in place of S, and what else they name."""
    reader.names |= {"dfvt_s_classification": artifact.manifest.name}
    shutil.copytree(artifact.directory, Path("exports", artifact.manifest.name))
    shutil.copytree(SAMPLES, "photos")
    for name in ("cat.jpg", "photo.jpg"):
        shutil.copy(SAMPLES / "cat.jpg", name)


def test_blocks_of_other_pages_run(reader, artifact_t, checkpoint_t, server):
    has_a_model_and_photographs(reader, artifact_t)
    reader.names |= {'export("s"': 'export("t"', "DFvT_S_7829.pth": str(checkpoint_t)}
    reader.server = server
    Path("docs").symlink_to(DOCS)
    for page, starts in OTHERS.items():
        for start in starts:
            (block,) = (
                b for b in BLOCK.findall((ROOT / page).read_text()) if b[2].startswith(start)
            )
            getattr(reader, block[1])(block[2])
    assert Path("answers", "results").is_dir()


def test_few_blocks_are_not_run_and_each_says_why():
    pages = [*(DOCS / "tutorials").glob("*.md"), DOCS / "serving.md"]
    found = {
        p.stem: [block[0] for block in BLOCK.findall(p.read_text()) if block[0]] for p in pages
    }
    assert {name: reasons for name, reasons in found.items() if reasons} == NOT_RUN
    assert {page.stem for page in pages} == {*TUTORIALS, "serving"}


def test_a_page_that_shows_something_else_fails(reader):
    reader.printed = "a: 12 nodes\n┃ b  ┃ 3.5 ┃\nnext: c\n"
    assert reader.shown("a: 9 nodes\n┃ b ┃ 10.25 ┃\n")
    assert reader.shown("a: …\n…\nnext: c\n")
    assert not reader.shown("a: 12 nodes\nnext: c\n")
    assert not reader.shown("a: 12 node\n")
