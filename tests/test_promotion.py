"""`versions`, `promote` and `rollback`: gates, history, pruning, kills, and other repositories."""

import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dfvt_deploy.artifact import update_manifest
from dfvt_deploy.cli import app
from dfvt_deploy.cli.populate import print_populated
from dfvt_deploy.errors import ArtifactError, BadInput, GateFailed, StageFailed
from dfvt_deploy.linting.run import lint
from dfvt_deploy.manifest import Verdict
from dfvt_deploy.promotion.live_versions import promote, rollback, versions
from dfvt_deploy.serving.history import been_live, read_history
from dfvt_deploy.serving.layout import live_version, make_live
from dfvt_deploy.serving.repository import populate

from .fixtures import copy_of, json_document
from .test_repository import NAME

ROOT = Path(__file__).parent.parent


def judged(exports: Path, verdict: str = "passed", created: str = "2026-01-01") -> None:
    """Give the exported model a verdict of `validate`."""

    def change(manifest):
        found = Verdict(
            verdict=verdict,
            file_sha256=manifest.files["model.onnx"].sha256,
            created=created,
            command="dfvt-deploy validate",
            dataset="samples",
            images=8,
            metric="agreement",
            figures={},
            report="validation.json",
        )
        return manifest.model_copy(update={"verdicts": {"model.onnx": found}})

    update_manifest(exports / NAME, change)


@pytest.fixture(scope="module")
def made(artifact_t, tmp_path_factory):
    """Exports with a passing verdict, and a repository of three versions, the first one live."""
    root = tmp_path_factory.mktemp("promotion")
    (root / "exports").mkdir()
    export = copy_of(artifact_t, root / "exports")
    for promoted in (True, False, False):
        populate(export, repository=root / "r", promote=promoted)
    judged(root / "exports")
    return root


@pytest.fixture
def root(made, tmp_path):
    shutil.copytree(made, tmp_path / "w", symlinks=True)
    return tmp_path / "w"


def go(root, version=None, **fields):
    fields = {"exports": root / "exports", **fields}
    return promote(NAME, repository=root / "r", version=version, **fields)


def live(root):
    return live_version(root / "r", NAME)


def test_promotion_and_rollback_are_recorded(root):
    assert live(root) == 1  # by populate; --no-promote kept it
    change = go(root, 2, reason="new weights")
    assert (change.action, change.version, change.previous, change.reason) == (
        "promote",
        2,
        1,
        "new weights",
    )
    assert change.verdicts["model.onnx"].verdict == "passed" and not change.unvalidated
    assert "@" in change.who
    go(root)  # the newest
    assert live(root) == 3
    assert lint(root / "r").errors == 0
    back = [rollback(NAME, repository=root / "r").version for _ in range(2)]
    assert back == [2, 1] and live(root) == 1
    with pytest.raises(BadInput, match=r"no version of .* was live before version 1"):
        rollback(NAME, repository=root / "r")
    actions = [c.action for c in read_history(root / "r", NAME)]
    assert actions == ["populate", "promote", "promote", "rollback", "rollback"]
    first = read_history(root / "r", NAME)[0]
    assert first.unvalidated  # populate asks for no verdict, and the history says so


def test_a_version_needs_a_passing_verdict_or_a_reason(root):
    judged(root / "exports", "failed", "2026-02-02")
    with pytest.raises(GateFailed, match="no passing verdict") as failed:
        go(root, 2)
    assert "model.onnx: failed, on 8 images" in str(failed.value)
    with pytest.raises(GateFailed, match="never validated"):
        go(root, 2, exports=root / "none")
    with pytest.raises(BadInput, match="--unvalidated needs --reason"):
        go(root, 2, unvalidated=True)
    assert live(root) == 1
    change = go(root, 2, unvalidated=True, reason="demo")
    assert change.unvalidated and change.reason == "demo" and live(root) == 2


def test_a_version_that_lint_refuses_or_that_was_changed_stays_out(root):
    config = root / "r" / NAME / "2" / "network.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size", "max_batch_sise"))
    with pytest.raises(BadInput, match=r"lint refuses .* version 2") as refused:
        go(root, 2)
    assert "unknown-field" in str(refused.value)
    with (root / "r" / f"{NAME}_network" / "3" / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match="not the file that was populated"):
        go(root, 3)
    with pytest.raises(BadInput, match="has no version 9; it has 1, 2, 3"):
        go(root, 9)
    with pytest.raises(BadInput, match="has no model 'other' made by populate"):
        promote("other", repository=root / "r")
    assert live(root) == 1 and len(read_history(root / "r", NAME)) == 1


def test_rollback_refuses_configs_changed_since(root):
    go(root, 2)
    config = root / "r" / NAME / "1" / "network.pbtxt"
    config.write_text(config.read_text() + "\n# changed\n")
    with pytest.raises(BadInput, match=r"configs .* version 1 were changed since it was live"):
        rollback(NAME, repository=root / "r")
    assert live(root) == 2


@pytest.mark.parametrize(
    ("changes", "now", "expected"),
    [
        ([("promote", 1), ("promote", 2)], 2, [1, 2]),
        ([("promote", 1), ("promote", 2)], 1, [1]),  # killed before the rename
        ([("promote", 1), ("promote", 2), ("rollback", 1)], 2, [1, 2]),
        ([("promote", 1), ("promote", 2), ("rollback", 1), ("promote", 3)], 3, [1, 3]),
        ([("promote", 1), ("promote", 2)], 5, [1, 2, 5]),  # by hand
        ([], 4, [4]),
        ([("promote", 1), ("promote", 2), ("promote", 1)], 1, [1, 2, 1]),
    ],
)
def test_the_versions_that_were_live(changes, now, expected):
    class Entry:
        def __init__(self, action, version):
            self.action, self.version = action, version

    assert been_live(tuple(Entry(*change) for change in changes), now) == expected


def test_a_link_moved_by_hand_is_noticed(root):
    go(root, 2)
    make_live(root / "r", NAME, 3)
    assert rollback(NAME, repository=root / "r").version == 2
    assert [c.action for c in read_history(root / "r", NAME)][-2:] == ["found", "rollback"]


def test_pruning_keeps_the_live_version_and_the_one_before(root):
    go(root, 2)
    kept = versions(NAME, repository=root / "r", prune=1)
    assert [(r.version, r.live, r.previous) for r in kept] == [
        (1, False, True),
        (2, True, False),
        (3, False, False),
    ]
    kept = versions(NAME, repository=root / "r", prune=1, prune_previous=True)
    assert [r.version for r in kept] == [2, 3]
    assert not (root / "r" / f"{NAME}_network" / "1").exists()
    assert lint(root / "r").errors == 0
    assert [p.name for p in root.iterdir()].count("r") == 1 and not list(root.glob(".r.*"))
    with pytest.raises(BadInput, match="no version of"):
        rollback(NAME, repository=root / "r")


def test_the_commands(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        return CliRunner().invoke(app, [*words, "--repository", "r"])

    done = run("promote", NAME, "--version", "2", "--json")
    assert done.exit_code == 0, done.output
    assert json_document("promote", done.stdout)["version"] == 2
    table = run("versions", NAME).output
    assert "live" in table and "before" in table and "passed" in table
    rows = json_document("versions", run("versions", "--json").stdout)
    assert [(r["version"], r["live"]) for r in rows] == [(1, False), (2, True), (3, False)]
    assert rows[1]["change"]["action"] == "promote"
    assert json_document("rollback", run("rollback", NAME, "--json").stdout)["version"] == 1
    assert run("promote", NAME, "--version", "2").exit_code == 0
    assert "version 1 is live, before it version 2" in run("rollback", NAME).output
    assert run("rollback", NAME).exit_code == 2
    judged(root / "exports", "failed", "2026-03-03")
    assert run("promote", NAME).exit_code == 4


def test_a_promotion_killed_anywhere_leaves_the_old_or_the_new_version(root):
    done = subprocess.run(
        [sys.executable, "-m", "tests.promotions", str(root / "r")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] > 8
    assert not [name for name in report["left"] if name.endswith(".part")]


def test_what_follows_populate_is_what_promote_waits_for(root, capsys):
    for fast, command in ((False, f"promote {NAME}"), (True, f"validate {NAME}")):
        options = {"repository": root / "r", "promote": False, "fast_decode": fast}
        print_populated(
            [populate(root / "exports" / NAME, **options)], root / "r", root / "exports"
        )
        shown = " ".join(capsys.readouterr().out.split())
        assert f"not live next: dfvt-deploy {command} " in shown
        assert shown.endswith(" --fast-decode") is fast


def _promote(root, version):
    go(Path(root), version)


def _populate(root):
    populate(Path(root) / "exports" / NAME, repository=Path(root) / "r", promote=False)


def test_promotions_and_populate_at_once(root):
    spawn = multiprocessing.get_context("spawn")
    works = [(_promote, (str(root), 2)), (_promote, (str(root), 3)), (_populate, (str(root),))]
    processes = [spawn.Process(target=work, args=arguments) for work, arguments in works]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [p.exitcode for p in processes] == [0, 0, 0]
    changes = read_history(root / "r", NAME)
    assert {c.version for c in changes} == {1, 2, 3} and live(root) == changes[-1].version
    assert [r.version for r in versions(repository=root / "r")] == [1, 2, 3, 4]
    assert lint(root / "r").errors == 0


def test_a_full_disk_changes_nothing(root):
    """A limit on the size of a file stands in for the disk: the history no longer fits."""
    go(root, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StageFailed, match=r"cannot be written: .*File too large"):
            rollback(NAME, repository=root / "r")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert live(root) == 2
    assert rollback(NAME, repository=root / "r").version == 1


def test_a_repository_of_another_tool_and_a_model_of_one_version(root, tmp_path):
    other = tmp_path / "other"
    for model in ("a", "a_network"):
        (other / model / "1").mkdir(parents=True)
        (other / model / "config.pbtxt").write_text(f'name: "{model}"\nplatform: "ensemble"\n')
    assert versions(repository=other) == []
    with pytest.raises(BadInput, match="no model 'a' made by populate; it has none"):
        promote("a", repository=other)
    (tmp_path / "exports").mkdir()
    shutil.copytree(root / "exports" / NAME, tmp_path / "exports" / NAME)
    populate(tmp_path / "exports" / NAME, repository=tmp_path / "one")
    assert len(versions(NAME, repository=tmp_path / "one", prune=1, prune_previous=True)) == 1
    with pytest.raises(BadInput, match="choose one of 1 with: dfvt-deploy promote"):
        rollback(NAME, repository=tmp_path / "one")
    change = promote(NAME, repository=tmp_path / "one", exports=tmp_path / "exports")
    assert not change.unvalidated and change.version == 1


def test_a_first_version_waits_for_its_promotion(root, tmp_path):
    exports, repository = root / "exports", tmp_path / "new"
    populate(exports / NAME, repository=repository, promote=False)
    assert [row.live for row in versions(NAME, repository=repository)] == [False]
    promote(NAME, repository=repository, exports=exports, to=str(tmp_path / "target"))
    assert [row.live for row in versions(NAME, repository=repository)] == [True]
    assert live_version(tmp_path / "target", NAME) == 1


def test_populate_puts_no_unvalidated_version_in_place_of_a_validated_one(artifact_t, root):
    (root / "open").mkdir()
    unjudged, exports = copy_of(artifact_t, root / "open"), root / "exports"
    promote(NAME, version=2, repository=root / "r", exports=exports)
    assert not populate(unjudged, repository=root / "r").live
    assert live_version(root / "r", NAME) == 2
    assert populate(exports / NAME, repository=root / "r").live
    assert live_version(root / "r", NAME) == 5
