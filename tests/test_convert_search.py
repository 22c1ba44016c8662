"""The search for what must stay in FP32: what it finds, and that it goes on after being killed."""

import json

import numpy as np
import onnxruntime
import pytest

from dfvt_deploy.artifact import open_artifact
from dfvt_deploy.errors import StageFailed
from dfvt_deploy.precision import search
from dfvt_deploy.precision.convert import convert
from dfvt_deploy.precision.search import SearchGoal, Trials, units_to_keep
from dfvt_deploy.types import Precision

from .fixtures import copy_of
from .test_convert import overflow_before_the_head, replace_model

UNITS = [f"unit{i}" for i in range(100)]


def trials(folder, **key) -> Trials:
    return Trials(folder / "search.json", {"of": "test", **key})


def needs(*culprits):
    """A score that is good when all of these are kept, and the sets it was asked for."""
    asked = []

    def score(kept):
        asked.append(tuple(kept))
        return sum(c in kept for c in culprits) / max(len(culprits), 1)

    return score, asked


@pytest.mark.parametrize(
    "culprits", [(), ("unit0",), ("unit99",), ("unit13", "unit50", "unit51", "unit99")]
)
def test_it_finds_exactly_the_culprits(culprits, tmp_path):
    score, asked = needs(*culprits)
    limit = 1.0 if culprits else 0.0
    assert units_to_keep(UNITS, score, limit, trials(tmp_path)) == culprits
    assert len(asked) <= 3 + 8 * len(culprits)


def test_what_cannot_hold_is_refused(tmp_path):
    with pytest.raises(StageFailed, match=r"even with all 100 .* the figure is 0\.5"):
        units_to_keep(UNITS, lambda kept: 0.5, 0.9, trials(tmp_path))


def test_a_loss_spread_over_everything_ends_early_and_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "MAX_FOUND", 5)

    def score(kept):
        return len(kept)

    kept = units_to_keep(UNITS, score, 60, trials(tmp_path))
    assert score(kept) >= 60


def test_a_killed_search_goes_on_and_another_does_not_take_its_trials(tmp_path):
    score, asked = needs("unit13", "unit77")
    count = 0

    def killed(kept):
        nonlocal count
        count += 1
        if count == 9:
            raise KeyboardInterrupt
        return score(kept)

    with pytest.raises(KeyboardInterrupt):
        units_to_keep(UNITS, killed, 1, trials(tmp_path))
    assert len(json.loads((tmp_path / "search.json").read_text())["figures"]) == 8
    before = set(asked)
    asked.clear()
    found = units_to_keep(UNITS, score, 1, trials(tmp_path))
    assert found == ("unit13", "unit77")
    assert not before & set(asked)
    assert len(trials(tmp_path, other="images")) == 0
    done = trials(tmp_path)
    assert len(done) > 8
    done.done()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_state_file_is_begun_anew(tmp_path):
    for content in ("{", "[]", '{"key": 1}', "", "[" * 100_000):
        (tmp_path / "search.json").write_text(content)
        assert len(trials(tmp_path)) == 0


def test_the_planted_overflow_is_found_and_reused(artifact_t, tmp_path, capsys):
    directory = copy_of(artifact_t, tmp_path)
    replace_model(directory, overflow_before_the_head)
    made = convert(directory, "fp16", images=2, search="nodes")
    planted = ("/model/ReduceMean", "/model/head/Gemm")
    assert open_artifact(directory).manifest.keep_fp32 == {Precision.FP16: planted}
    assert made.record.kept_fp32 == planted
    assert made.record.reasons["found by a search"] == {"ReduceMean": 1, "Gemm": 1}
    assert not (directory / "search.fp16.json").exists()
    assert "search: keeps /model/ReduceMean" in capsys.readouterr().err
    again = convert(directory, "fp16", images=2)
    assert again.record.reasons["found by a search"] == {"ReduceMean": 1, "Gemm": 1}


def test_a_search_takes_any_figure_and_leaves_int8_nodes_out(artifact_t, tmp_path):
    directory = copy_of(artifact_t, tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)

    def closeness(runner):
        return -float(np.abs(runner.infer({"images": images})["logits"] - fp32).max())

    session = onnxruntime.InferenceSession(str(directory / "model.onnx"))
    (fp32,) = session.run(None, {"images": images})
    whole = convert(directory, "int8", images=3).file
    (int8,) = onnxruntime.InferenceSession(str(whole)).run(None, {"images": images})
    wanted = float(np.abs(int8 - fp32).max()) / 2
    goal = SearchGoal("minus the largest difference of a logit", -wanted, closeness)
    made = convert(directory, "int8", images=3, search="operators", goal=goal)
    assert set(made.record.kept_fp32) <= {"Gemm", "MatMul"}
    assert made.record.kept_fp32
    (found,) = onnxruntime.InferenceSession(str(made.file)).run(None, {"images": images})
    assert np.abs(found - fp32).max() <= wanted
