"""What commands end in: a line of result and the next command, all that --quiet leaves."""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from dfvt_deploy import quiet
from dfvt_deploy.cli import app
from dfvt_deploy.cli.output import browser
from dfvt_deploy.serving.repository import populate

from .fixtures import encoded, photograph
from .test_commands import parsed

NAME = "dfvt_t_classification"


@pytest.fixture
def folder(tmp_path, monkeypatch, artifact_t):
    """A working folder as a user has it: an export, a repository of two versions, an image."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    shutil.copytree(artifact_t.directory, tmp_path / "exports" / NAME)
    repository = tmp_path / "model repository"
    for _ in range(2):
        populate(artifact_t.directory, repository=repository)
    (tmp_path / "an image.png").write_bytes(encoded(photograph(60, 40), "PNG"))
    (tmp_path / "another.png").write_bytes(encoded(photograph(40, 60), "PNG"))
    return tmp_path


#: Commands, how many lines of result they have, and what the next command begins with.
ENDINGS = {
    "doctor": (1, "dfvt-deploy quickstart"),
    f"populate {NAME} --repository 'model repository'": (1, "dfvt-deploy serve"),
    "versions --repository 'model repository'": (1, "dfvt-deploy serve"),
    "lint 'model repository'": (1, "dfvt-deploy serve --repository 'model repository'"),
    f"lint 'model repository/{NAME}_network'": (
        1,
        "dfvt-deploy serve --repository 'model repository'",
    ),
    f"promote {NAME} --version 1 --unvalidated --reason 'it is' --repository 'model repository'": (
        1,
        f"dfvt-deploy versions {NAME} --repository 'model repository'",
    ),
    f"predict 'an image.png' another.png --model {NAME}": (3, "dfvt-deploy predict 'an image.png'"),
    f"predict 'an image.png' --model {NAME} --save drawn": (2, "python -m webbrowser file:///"),
}


@pytest.mark.parametrize("line", ENDINGS, ids=lambda line: " ".join(line.split()[:2]))
def test_a_command_ends_in_a_result_and_the_next_command(line, folder, server):
    words, (results, going_on) = shlex.split(line), ENDINGS[line]
    if words[0] == "predict":
        words += ["--url", server.grpc_url]
    whole = CliRunner().invoke(app, words)
    assert whole.exit_code == 0, whole.output
    *_, result, last = whole.stdout.splitlines()
    assert last.startswith(f"next: {going_on}") and not result.startswith("next: ")
    command = last.removeprefix("next: ")
    if command.startswith("dfvt-deploy"):
        assert parsed(command).command_line() == command
    assert not any("…" in each for each in whole.stdout.splitlines()), "cut at 80 columns"

    if words[0] == "promote":  # which is refused where the version is live
        words[words.index("1")] = "2"
    short = CliRunner().invoke(app, [*words, "-q"])
    assert short.exit_code == 0, short.output
    lines = short.stdout.splitlines()
    assert len(lines) == results + 1
    assert lines[-1] == last and sum(each.startswith("next: ") for each in lines) == 1
    assert not quiet.wanted, "the library would be quiet too"
    assert short.stderr == ""


def test_quiet_leaves_json_and_errors_as_they_are(folder):
    document = CliRunner().invoke(app, ["lint", "model repository", "--json"]).stdout
    assert CliRunner().invoke(app, ["lint", "model repository", "--json", "-q"]).stdout == document
    json.loads(document)
    with (folder / "model repository" / NAME / "config.pbtxt").open("a") as config:
        config.write("no_such_field: 1\n")
    done = CliRunner().invoke(app, ["lint", "model repository", "--quiet"])
    assert done.exit_code == 2
    *found, result, going_on = done.stdout.splitlines()
    assert re.search(r"models checked: [1-9]\d* errors?, ", result)
    assert sum("error [unknown-field]" in line for line in found) == 1
    assert sum(line.startswith("    fix: ") for line in found) == len(found) / 2
    assert going_on == "next: dfvt-deploy lint 'model repository'", "--fix writes no config"
    assert done.stderr.startswith("error: ")
    (folder / "model repository" / NAME / "config.pbtxt").chmod(0o646)
    done = CliRunner().invoke(app, ["lint", "model repository", "--quiet"])
    assert done.stdout.splitlines()[-1] == "next: dfvt-deploy lint 'model repository' --fix"


@pytest.mark.parametrize("flags", [(), ("-q",)])
def test_quiet_shows_no_progress_on_a_terminal(flags, folder, server):
    terminal, stderr = pty.openpty()
    words = [sys.executable, "-m", "dfvt_deploy", "predict", "an image.png", "--model", NAME]
    words += ["--url", server.grpc_url, *flags]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True)
    os.close(stderr)
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # how Linux says that a terminal has no writer left
        pass
    os.close(terminal)
    assert (b"predict" in shown) is not bool(flags)
    assert ("label" in done.stdout) is not bool(flags)
    assert done.stdout.splitlines()[-2] == "1 of 1 images were answered"


def test_serve_and_demo_name_each_other_and_the_page(folder):
    words = [sys.executable, "-m", "dfvt_deploy"]
    serving = [*words, "serve", "-q", "--ephemeral-ports", "--repository", "model repository"]
    with subprocess.Popen(serving, stdout=subprocess.PIPE, text=True) as server:
        watchdog = threading.Timer(120, server.kill)
        watchdog.start()
        try:
            result, going_on = server.stdout.readline(), server.stdout.readline()
            assert result.startswith(f"serving {NAME}: HTTP at 127.0.0.1:")
            demo = parsed(going_on.removeprefix("next: ").strip())
            assert f"HTTP at {demo.url}," in result
            paging = [*words, "demo", "--port", "0", "--url", demo.url]
            with subprocess.Popen(paging, stdout=subprocess.PIPE, text=True) as page:
                address = page.stdout.readline().split()[0]
                assert page.stdout.readline() == f"next: {browser(address)}\n"
                page.send_signal(signal.SIGTERM)
                assert page.wait(60) == 0
        finally:
            watchdog.cancel()
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def test_a_path_is_opened_whatever_it_is_called(tmp_path):
    assert shlex.split(browser(tmp_path / "it's $HOME.png"))[:3] == ["python", "-m", "webbrowser"]
    assert shlex.split(browser(tmp_path / "é 1.png"))[3] == (tmp_path / "é 1.png").as_uri()
