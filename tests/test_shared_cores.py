"""How copies of a network share the cores in the embedded server's backends."""

import importlib.util
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dfvt_deploy.exporters.recipe import random_images
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving.installation import _EMBEDDED
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve

NETWORK = "dfvt_t_classification_network"


def shared_cores(file, *, count=2, threads=8, cores=8, kind="KIND_CPU"):
    spec = importlib.util.spec_from_file_location("copies", _EMBEDDED / "copies.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = {"instance_group": [{"count": count, "kind": kind}]}
    return module.SharedCores(config, file, threads, cores)


def compute(file, connection):
    with shared_cores(Path(file)).threads() as threads:
        connection.send(threads)
        connection.recv()


@pytest.mark.parametrize(
    ("fields", "alone", "shared"),
    [
        ({}, 8, 4),
        ({"count": 3}, 8, 2),
        ({"count": 16}, 8, 1),
        ({"count": 1}, 8, 8),
        ({"threads": 4}, 4, 4),
        ({"threads": 2}, 2, 2),
        ({"kind": "KIND_GPU"}, 8, 8),
    ],
)
def test_a_copy_has_its_share_of_the_cores_and_alone_what_its_config_says(
    tmp_path, fields, alone, shared
):
    (tmp_path / "model.onnx").touch()
    found = shared_cores(tmp_path / "model.onnx", **fields)
    assert (found.alone, found.shared) == (alone, shared)
    with found.threads() as threads:
        assert threads == alone


def test_a_copy_that_computes_leaves_others_their_share_until_it_ends_or_is_killed(tmp_path):
    file = tmp_path / "model.onnx"
    file.touch()
    file.chmod(0o444)  # served files are not written
    mine = shared_cores(file)
    context = multiprocessing.get_context("spawn")
    for end in ("done", "killed"):
        ours, theirs = context.Pipe()
        other = context.Process(target=compute, args=(str(file), theirs))
        other.start()
        assert ours.recv() == 8, "nobody else computes yet"
        with mine.threads() as threads:
            assert threads == 4, end
        if end == "done":
            ours.send(None)
        else:
            other.kill()
        other.join()
        with mine.threads() as threads:
            assert threads == 8, end


def test_an_error_in_one_run_does_not_count_as_computing(tmp_path):
    file = tmp_path / "model.onnx"
    file.touch()
    mine, context = shared_cores(file), multiprocessing.get_context("spawn")
    with pytest.raises(ValueError), mine.threads():
        raise ValueError
    ours, theirs = context.Pipe()
    other = context.Process(target=compute, args=(str(file), theirs))
    other.start()
    assert ours.recv() == 8
    ours.send(None)
    other.join()


def test_copies_that_share_answer_as_one_alone(artifact_t, tmp_path):
    populate(artifact_t.directory, repository=tmp_path, instances=2, threads=2)
    feeds = [{"images": random_images(2, 224, 224)} for _ in range(12)]
    with OnnxRuntimeRunner(artifact_t.onnx_path()) as runner:
        expected = [runner.infer(feed)["logits"] for feed in feeds]

    def ask(feed):
        with TritonRunner(NETWORK, server.grpc_url) as client:
            return client.infer(feed)["logits"]

    served = (tmp_path / NETWORK / "1" / "model.onnx").stat().st_ino
    locked = False
    with serve(tmp_path) as server, ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, feed) for feed in feeds]
        while not locked and not all(each.done() for each in asked):
            locked = f":{served} " in Path("/proc/locks").read_text()
        answers = [each.result() for each in asked]
    assert locked, "a copy that computes is seen by the others"
    for answer, logits in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, logits, atol=1e-5)
