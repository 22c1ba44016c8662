"""Tables at 80 columns: every word of every cell is whole, whichever command prints it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dfvt_deploy.cli import app, output
from dfvt_deploy.cli.convert import _print_conversion
from dfvt_deploy.explaining.explain import Explanation
from dfvt_deploy.explaining.heat_maps import Faithfulness
from dfvt_deploy.precision.convert import Converted
from dfvt_deploy.serving.repository import populate

from .test_commands import ROOT

NAME = "dfvt_t_classification"


@pytest.fixture
def printed(monkeypatch):
    """The words of all cells that are printed as tables, beside the real printing."""
    words, make = [], output._table

    def noting(columns, rows, room):
        assert room == 80
        words.extend(word for row in (columns, *rows) for cell in row for word in cell.split())
        return make(columns, rows, room)

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(output, "_table", noting)
    return words


def whole(words: list[str], text: str) -> bool:
    shown = set(text.split())
    broken = {word for word in words if word not in shown and len(word) < 60}
    assert not broken, f"broken: {broken}\n{text}"
    assert max(map(len, text.splitlines())) <= 80 or "next: " in text
    return bool(words)


@pytest.fixture
def folder(tmp_path, monkeypatch, artifact_t, fp16_t):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(fp16_t.directory, tmp_path / "exports" / NAME)
    measured = json.loads((ROOT / "docs" / "results" / "capacity.json").read_text())
    (tmp_path / "figures.json").write_text(json.dumps(measured["figures"]))
    for _ in range(2):
        populate(artifact_t.directory, repository=tmp_path / "model_repository")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["models"],
        ["doctor"],
        ["versions"],
        ["validate", NAME, "--limit", "1"],
        ["plan", "figures.json", "--rate", "99", "--p99-ms", "99"],
    ],
    ids=lambda words: words[0],
)
def test_no_command_breaks_a_word_at_80_columns(words, folder, printed):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert whole(printed, done.stdout)


def test_conversions_are_whole_at_80_columns(fp16_t, printed, capsys):
    ((name, record),) = fp16_t.manifest.conversions.items()
    _print_conversion(Converted(fp16_t, fp16_t.directory / name, record, {}))
    assert whole(printed, capsys.readouterr().out)


def test_heat_maps_are_whole_at_80_columns(folder, printed, monkeypatch):
    found = Explanation(
        image="photographs/of a street.jpg",
        target="detection 1: traffic light",
        class_id=9,
        source="stage1.context",
        heat=np.zeros((2, 2), np.float32),
        faithfulness=Faithfulness(0.125, 0.875, 0.75),
        sanity=0.1,
        agreement=1.0,
        picture=Path("a.png"),
        array=Path("a.npy"),
    )
    monkeypatch.setattr("dfvt_deploy.explaining.explain.explain", lambda _: [found] * 2)
    (folder / "street.jpg").touch()
    done = CliRunner().invoke(app, ["explain", "street.jpg", "--model", NAME])
    assert done.exit_code == 0, done.output
    assert whole(printed, done.stdout)


@pytest.mark.parametrize("columns", [2, 5, 9, 14])
def test_any_table_is_whole_at_any_width(columns, printed, monkeypatch, capsys):
    generator = np.random.default_rng(columns)

    def cell():
        return " ".join("w" * generator.integers(1, 16) for _ in range(generator.integers(0, 5)))

    rows = [[cell() for _ in range(columns)] for _ in range(4)]
    output.print_table("title", [f"column {i}" for i in range(columns)], rows)
    text = capsys.readouterr().out
    words = [word for row in rows for one in row for word in one.split()]
    assert sorted(word for word in text.split() if set(word) == {"w"}) == sorted(words)
    assert max(map(len, text.splitlines())) <= 80


def test_a_word_that_is_wider_than_the_screen_is_folded_and_not_cut(printed, capsys):
    output.print_table("", ["file", "bytes"], [["/folder" * 20, "7"]])
    text = capsys.readouterr().out
    assert "".join(text.split()) == "file" + "/folder" * 20 + "bytes7"


@pytest.mark.parametrize("word, between", [("w" * 18, 0), ("w" * 17 + " w", 1)])
def test_rows_without_borders_are_apart_only_where_one_has_several_lines(
    word, between, printed, capsys
):
    output.print_table("", ["a", "b", "c", "d"], [[word] * 4] * 3)  # 80 with borders need 15 a cell
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert "│" not in "".join(rows)
    assert sum(not row.strip() for row in rows) == 2 * between
