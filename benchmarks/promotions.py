"""Promotions and rollbacks while 8 clients ask a running `serve`: failed and mixed answers.

    python benchmarks/promotions.py exports/dfvt_t_classification --changes 50

Two versions of the model are populated, which answer with 5 and with 3 classes. A change is the
command `promote` or `rollback`; the next one begins when the new version answers.
"""

import argparse
import collections
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

from dfvt_deploy.serving.repository import populate

CLASSES = {"1": 5, "2": 3}


class Clients:
    """Threads that ask over gRPC and HTTP; `seen` counts answers by version and classes."""

    def __init__(self, addresses: dict[str, str], name: str, count: int) -> None:
        self.seen: collections.Counter = collections.Counter()
        self.failures: list[str] = []
        self.stop = threading.Event()
        self._name = name
        sample = resources.files("dfvt_deploy") / "data" / "samples" / "cat.jpg"
        self._image = np.array([[sample.read_bytes()]], dtype=np.object_)
        kinds = (tritonclient.grpc, addresses["grpc"]), (tritonclient.http, addresses["http"])
        self.threads = [
            threading.Thread(target=self._ask, args=kinds[number % 2]) for number in range(count)
        ]

    def _ask(self, protocol: Any, url: str) -> None:
        client = protocol.InferenceServerClient(url)
        tensor = protocol.InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(self._image)
        while not self.stop.is_set():
            try:
                result = client.infer(self._name, [tensor])
                header = result.get_response()
                is_dict = isinstance(header, dict)
                version = header["model_version"] if is_dict else header.model_version
                self.seen[str(version), result.as_numpy("labels").shape[1]] += 1
            except Exception as error:
                self.failures.append(str(error))

    def wait_for(self, version: str) -> float:
        start, key = time.monotonic(), (version, CLASSES[version])
        before = self.seen[key]
        while self.seen[key] == before:
            if time.monotonic() - start > 300:
                raise TimeoutError(f"version {version} does not answer: {self.failures[-1:]}")
            time.sleep(0.05)
        return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    program, name = [sys.executable, "-m", "dfvt_deploy"], options.model.name
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        for promoted, top_k in zip((True, False), CLASSES.values(), strict=True):
            populate(options.model, repository=repository, top_k=top_k, promote=promoted)
        to_it = ["--repository", str(repository)]
        server = subprocess.Popen(
            [*program, "serve", *to_it, "--ephemeral-ports", "--json"],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = iter(server.stdout.readline, "")
        text = ""
        for line in lines:
            text += line
            if line == "}\n":
                break
        clients = Clients(json.loads(text), name, options.clients)
        for thread in clients.threads:
            thread.start()
        seconds = []
        try:
            clients.wait_for("1")
            for number in range(options.changes):
                forth = number % 2 == 0
                words = ["promote", name, "--unvalidated", "--reason", "load"]
                command = words if forth else ["rollback", name]
                subprocess.run([*program, *command, *to_it], check=True, capture_output=True)
                seconds.append(clients.wait_for("2" if forth else "1"))
                print(f"{number + 1}: {seconds[-1]:.1f} s", clients.seen, flush=True)
        finally:
            clients.stop.set()
            for thread in clients.threads:
                thread.join()
            server.send_signal(signal.SIGTERM)
            server.wait()
    mixed = {key: n for key, n in clients.seen.items() if CLASSES.get(key[0]) != key[1]}
    print(f"{len(seconds)} changes, {sum(clients.seen.values())} answers")
    print(f"{len(clients.failures)} failed {clients.failures[:3]}, {sum(mixed.values())} mixed")
    print(f"median {np.median(seconds):.1f} s until the new version answered")


if __name__ == "__main__":
    main()
