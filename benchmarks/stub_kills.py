"""Kill a Python step of a running `serve` under load, again and again: how long nobody answers.

    python benchmarks/stub_kills.py exports/dfvt_t_classification [--kills 10]

The steps preprocess, network and postprocess are killed in turn while 4 clients ask over HTTP and
gRPC. For each kill: seconds between two good answers, and the longest of them in which
`health/ready` said ready. Ends with 1 if the first is above 30 or the second above 5.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from dfvt_deploy import open_artifact, populate
from dfvt_deploy.data import SAMPLES
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving import http_api
from dfvt_deploy.serving.process import children_of

STEPS = ("preprocess", "network", "postprocess")
MOST_SILENT_S, MOST_FALSELY_READY_S = 30, 5


class Watch:
    """Clients that ask without a pause, and one that asks whether the server is ready."""

    def __init__(self, name: str, addresses: dict[str, str], clients: int) -> None:
        self.good: list[float] = []
        self.failed: list[float] = []
        self.ready: list[tuple[float, bool]] = []
        self._stop = threading.Event()
        self._image = np.array([[(SAMPLES / "cat.jpg").read_bytes()]], dtype=np.object_)
        kinds = [("http", "grpc")[number % 2] for number in range(clients)]
        self._threads = [
            threading.Thread(target=self._ask, args=(name, addresses[kind], kind)) for kind in kinds
        ] + [threading.Thread(target=self._ask_ready, args=(addresses["http"],))]

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, name: str, url: str, protocol: str) -> None:
        while not self._stop.is_set():
            try:
                with TritonRunner(name, url, protocol, timeout=10) as runner:
                    while not self._stop.is_set():
                        runner.infer({"image": self._image})
                        self.good.append(time.monotonic())
            except Exception:
                self.failed.append(time.monotonic())
                time.sleep(0.02)

    def _ask_ready(self, url: str) -> None:
        while not self._stop.is_set():
            is_ready = http_api.is_ready(url)
            self.ready.append((time.monotonic(), is_ready))
            time.sleep(0.05)

    def wait_for_good(self, after: float, count: int) -> None:
        while sum(moment > after for moment in self.good[-1000:]) < count:
            if time.monotonic() > after + 120:
                raise TimeoutError("no answers for two minutes")
            time.sleep(0.05)

    def gap(self, killed: float) -> tuple[float, float]:
        """The longest time without an answer around a kill, and the longest "ready" within it."""
        moments = sorted(moment for moment in self.good if moment > killed - 5)
        start, end = max(itertools.pairwise(moments), key=lambda two: two[1] - two[0])
        longest, since = 0.0, None
        for moment, is_ready in self.ready:
            if start < moment < end:
                since = (since or moment) if is_ready else None
                longest = max(longest, moment - (since or moment))
        return end - start, longest


def steps_of(serve_pid: int, model: str) -> dict[str, int]:
    """One process of each step below `serve`, by the path on its command line."""
    found = {}
    for triton in children_of(serve_pid):
        for pid in children_of(triton):
            path = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[1]
            found |= {step: pid for step in STEPS if f"/{model}_{step}/" in path}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        name = open_artifact(options.model).manifest.name
        populate(options.model, repository=Path(folder) / "models")
        command = [sys.executable, "-m", "dfvt_deploy", "serve", "--ephemeral-ports", "--json"]
        server = subprocess.Popen(
            [*command, "--repository", "models"], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        text = ""
        while not text.endswith("}\n"):
            text += server.stdout.readline()
        gaps = []
        try:
            with Watch(name, json.loads(text), options.clients) as watch:
                for number in range(options.kills):
                    watch.wait_for_good(time.monotonic(), 20)
                    step = STEPS[number % 3]
                    killed = time.monotonic()
                    os.kill(steps_of(server.pid, name)[step], signal.SIGKILL)
                    time.sleep(8)
                    watch.wait_for_good(time.monotonic(), 20)
                    gaps.append(watch.gap(killed))
                    print(f"{step}: {gaps[-1][0]:.1f} s without answers, ", end="")
                    print(f"ready for {gaps[-1][1]:.1f} s of them", flush=True)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    silent, ready = (max(values) for values in zip(*gaps, strict=True))
    print(f"{len(gaps)} kills, {len(watch.good)} answers, {len(watch.failed)} failures; at most ")
    print(f"{silent:.1f} s without answers, {ready:.1f} s of them ready; exit {server.returncode}")
    sys.exit(silent > MOST_SILENT_S or ready > MOST_FALSELY_READY_S or server.returncode != 0)


if __name__ == "__main__":
    main()
