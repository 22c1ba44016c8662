"""A running server takes over versions that become live."""

import collections
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from dfvt_deploy.files import locked
from dfvt_deploy.serving.http_api import is_ready
from dfvt_deploy.serving.layout import make_live
from dfvt_deploy.serving.repository import populate

from .fixtures import encoded, photograph
from .test_serving import NAME, _start

CLASSES = {"1": 5, "2": 3}


@pytest.fixture
def repository(artifact_t, tmp_path):
    """Version 2 of the model answers with three classes, version 1, which is live, with five."""
    directory = tmp_path / "model_repository"
    for top_k in CLASSES.values():
        populate(artifact_t.directory, repository=directory, top_k=top_k, preprocess_instances=1)
    _make_live(directory, 1)
    return directory


def _make_live(repository, version):
    with locked(repository):
        make_live(repository, NAME, version)


def _wait_for_messages(process, messages, count):
    while messages.read_text().count("version 2 is live, but version 1 served") < count:
        assert process.poll() is None, messages.read_text()
        time.sleep(0.1)


class Clients:
    """Threads that ask for answers over both protocols; `seen` counts versions and classes."""

    def __init__(self, document):
        self.seen, self.failures, self.not_ready = collections.Counter(), [], 0
        self._document, self._stop = document, threading.Event()
        image = encoded(photograph(80, 90), "JPEG")
        self._image = np.array([[image]], dtype=np.object_)
        ask = [(tritonclient.grpc, "grpc"), (tritonclient.http, "http")] * 2
        self._threads = [threading.Thread(target=self._ask, args=pair) for pair in ask]
        self._threads.append(threading.Thread(target=self._watch))

    def _ask(self, protocol, name):
        client = protocol.InferenceServerClient(self._document[name])
        tensor = protocol.InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(self._image)
        while not self._stop.is_set():
            try:
                result = client.infer(NAME, [tensor])
                header = result.get_response()
                version = header["model_version"] if name == "http" else header.model_version
                self.seen[version, result.as_numpy("labels").shape[1]] += 1
            except Exception as error:
                self.failures.append(str(error))
        client.close()

    def _watch(self):
        while not self._stop.wait(0.1):
            self.not_ready += not is_ready(self._document["http"])

    def wait_for(self, version):
        deadline, before = time.monotonic() + 120, self.seen[version, CLASSES[version]]
        while self.seen[version, CLASSES[version]] == before:
            assert time.monotonic() < deadline, (version, self.seen, self.failures)
            time.sleep(0.1)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_version_that_becomes_live_is_served_without_a_failed_or_mixed_answer(
    repository, tmp_path
):
    messages = tmp_path / "messages"
    with messages.open("w") as file:
        process, document = _start(repository, tmp_path, file)
    with Clients(document) as clients:
        clients.wait_for("1")
        for version in ("2", "1"):
            _make_live(repository, int(version))
            clients.wait_for(version)
            while f"version {version} is served" not in messages.read_text():
                assert process.poll() is None
                time.sleep(0.1)
        damaged = repository / f"{NAME}_postprocess" / "2" / "labels.txt"
        shutil.copyfile(damaged, repository.parent / "labels.txt")
        damaged.write_text("another\n" * 1000)
        _make_live(repository, 2)
        _wait_for_messages(process, messages, 1)
        _make_live(repository, 1)
        time.sleep(2)
        shutil.copyfile(repository.parent / "labels.txt", damaged)
        (repository / NAME / "2" / "config.pbtxt").write_text("model_version: 2 no config {")
        _make_live(repository, 2)
        _wait_for_messages(process, messages, 2)
        repository.rename(tmp_path / "away")
        time.sleep(2)
        clients.wait_for("1")
    assert set(clients.seen) == set(CLASSES.items())
    assert not clients.failures
    assert not clients.not_ready
    assert "starting Triton again" not in messages.read_text()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
