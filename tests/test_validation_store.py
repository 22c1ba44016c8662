"""The stored results of `validate`: what survives, and what is refused."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from dfvt_deploy.compare.agreement import Agreement
from dfvt_deploy.errors import ArtifactError, StageFailed
from dfvt_deploy.evaluate.datasets.sample import ClassTruth, Sample
from dfvt_deploy.evaluate.results import Unjudged
from dfvt_deploy.evaluate.run import (
    ImageRecord,
    ResultStore,
    StageRecord,
    remove_store,
    sample_digest,
)
from dfvt_deploy.types import Task


def _record(value: float) -> ImageRecord:
    step = Agreement(task=Task.CLASSIFICATION, images=1)
    result = {"id": "a", "rank": None, "scores": [value]}
    stages = {"onnx": StageRecord(classes={3: 1}, milliseconds=2.5, step=step, result=result)}
    return ImageRecord(stages=stages)


def test_stored_results_come_back_in_the_order_that_is_asked_for(tmp_path):
    refused = ImageRecord(refused=Unjudged(image="b", stage="decoding", reason="cut"))
    with ResultStore(tmp_path / "r.sqlite") as store:
        store.append("1", _record(0.1 + 0.2))
        store.append("2", refused)
    with ResultStore(tmp_path / "r.sqlite") as store:
        assert "1" in store
        assert "3" not in store, "a result is of one state of its image"
        found = list(store.read({"b": "2", "caf\udce9.jpg": "1"}))
    assert found == [("b", refused), ("caf\udce9.jpg", _record(0.1 + 0.2))]


def test_a_digest_is_of_one_image_its_file_and_its_truth(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"one")
    sample = Sample("caf\udce9.jpg", tmp_path / "a.jpg")
    digest = sample_digest(sample)
    assert sample_digest(sample) == digest
    assert sample_digest(replace(sample, id="b.jpg")) != digest
    assert sample_digest(replace(sample, truth=ClassTruth(1, "bee"))) != digest
    (tmp_path / "a.jpg").write_bytes(b"other")
    assert sample_digest(sample) != digest


def test_results_survive_a_process_that_is_killed(tmp_path):
    program = """if True:
        import os, sys
        from pathlib import Path
        from dfvt_deploy.evaluate.run import ImageRecord, ResultStore
        store = ResultStore(Path(sys.argv[1])).__enter__()
        for i in range(50):
            store.append(str(i), ImageRecord())
        os.kill(os.getpid(), 9)
    """
    path = tmp_path / "r.sqlite"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    with ResultStore(path) as store:
        assert all(str(i) in store for i in range(50))


def test_numbers_that_are_not_finite_are_stored(tmp_path):
    with ResultStore(tmp_path / "r.sqlite") as store:
        store.append("1", _record(math.inf))
        ((_, found),) = store.read({"a": "1"})
    assert found.stages["onnx"].result["scores"] == [math.inf]


@pytest.mark.parametrize("damage", ["cut", "nonsense", "page", "result"])
def test_a_damaged_store_is_refused(tmp_path, damage):
    path = tmp_path / "r.sqlite"
    digests = {f"image {i}": f"digest {i}" for i in range(40)}
    with ResultStore(path) as store:
        for digest in digests.values():
            store.append(digest, _record(1))
    whole = path.read_bytes()
    content = {
        "cut": whole[: len(whole) // 2],
        "nonsense": b"nonsense" * 1000,
        "page": whole[:4096] + b"U" * 4096 + whole[8192:],
        "result": whole.replace(b'"milliseconds"', b'"milliseconbs"', 1),
    }[damage]
    path.write_bytes(content)
    with (
        pytest.raises(ArtifactError, match=r"r\.sqlite is damaged .*--fresh"),
        ResultStore(path) as store,
    ):
        list(store.read(digests))
    remove_store(path)
    with ResultStore(path) as store:
        assert "digest 0" not in store


def test_a_store_that_cannot_be_written_is_no_damaged_one(tmp_path):
    (tmp_path / "r.sqlite").mkdir()
    with pytest.raises(StageFailed, match="cannot be used: unable to open database file"):
        ResultStore(tmp_path / "r.sqlite").__enter__()
