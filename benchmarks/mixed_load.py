"""Mixed load on a server with several tasks: no failure, no wrong answer, and memory that is flat.

    python benchmarks/mixed_load.py [exports/NAME …] [--minutes 30]

Without models DFvT-T of each task is exported untrained, dense ones at 128x128. Clients send
single images and batches over HTTP and gRPC, and images and tensors that must be refused. Every
answer is compared with the offline pipeline. Memory is the sum over Triton and its Python steps of
what each holds alone (Pss); the last quarter of the time is compared with the second. Ends with 1
if anything was not as it must.
"""

import argparse
import contextlib
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from dfvt_deploy import export, open_artifact, populate, serve
from dfvt_deploy.artifact import Artifact
from dfvt_deploy.data import SAMPLES
from dfvt_deploy.errors import BadInput
from dfvt_deploy.pipeline import Pipeline
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving.process import children_of
from dfvt_deploy.serving.server import TritonServer
from dfvt_deploy.tasks.images import decode_image

#: Growth of the memory that counts as flat.
MOST_GROWTH = 0.05

IMAGES = [path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))]


def offline(artifact: Artifact) -> list[dict]:
    """The pipeline's answers for `IMAGES`, of the outputs that every request gets."""
    pipeline, answers = Pipeline(artifact.manifest), []
    with OnnxRuntimeRunner(artifact.onnx_path()) as runner:
        for data in IMAGES:
            inputs = pipeline.prepare(decode_image(data))
            answers.append(pipeline.postprocess(inputs, runner.infer(pipeline.feed(inputs))))
    return answers


def same(found: dict, expected: dict) -> bool:
    """Equal, floating point within rounding. A batch rounds otherwise than one image, which moves
    single pixels at the border of a mask: masks are not compared."""
    return all(
        np.allclose(value, expected[name], rtol=1e-4, atol=1e-4)
        if value.dtype.kind == "f"
        else name == "masks" or np.array_equal(value, expected[name])
        for name, value in found.items()
    )


def repository_of(models: list[Path], folder: Path) -> tuple[Path, dict[str, list[dict]]]:
    """A repository of the models, by default DFvT-T of each task, and their offline answers."""
    for task in () if models else ("classification", "detection", "segmentation"):
        static = {} if task == "classification" else {"static": (128, 128)}
        models = [*models, export("t", task, output=folder / "exports", **static).directory]
    repository, expected = folder / "models", {}
    for model in models:
        artifact = open_artifact(model)
        populate(model, repository=repository)
        expected[artifact.manifest.name] = offline(artifact)
    return repository, expected


class Load:
    """Clients that ask until the time is over; `counts` says what became of the requests."""

    def __init__(
        self, server: TritonServer, expected: dict[str, list[dict]], seconds: float, pause: float
    ) -> None:
        self.server, self.expected, self.pause = server, expected, pause
        self.end = time.monotonic() + seconds
        self.counts: Counter = Counter()
        self.failures: list[str] = []

    def client(self, seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < self.end:
            protocol = rng.choice(("http", "grpc"))
            model = rng.choice(list(self.expected))
            url = getattr(self.server, f"{protocol}_url")
            with TritonRunner(model, url, protocol, timeout=120) as runner:
                for _ in range(20):
                    if time.monotonic() >= self.end:
                        break
                    try:
                        self.counts[self._ask(rng, runner, model)] += 1
                    except Exception as error:
                        self.failures.append(f"{model} over {protocol}: {error}")
                    time.sleep(self.pause)

    def _ask(self, rng: random.Random, runner: TritonRunner, model: str) -> str:
        kind, chosen = rng.random(), rng.randrange(len(IMAGES))
        image = IMAGES[chosen]
        if kind < 0.2:
            at = rng.randrange(len(image) // 2)
            bad = rng.choice((image[:at], rng.randbytes(at), b"GIF89a" + image[6:]))
            tensor = rng.choice((np.array([[bad]], np.object_), np.zeros((1, 1), np.float32)))
            try:
                runner.infer({"image": tensor})
            except BadInput:
                return "refused, as must be"
            raise AssertionError("a bad image was answered")
        batch = [chosen] * (1 if kind < 0.8 else rng.randint(2, 4))
        found = runner.infer({"image": np.array([[IMAGES[i]] for i in batch], np.object_)})
        for row in range(len(batch)):
            one = {name: value[row : row + 1] for name, value in found.items()}
            assert same(one, self.expected[model][chosen]), "another answer than offline"
        return "answered"


def memory_mb(server: TritonServer) -> float:
    """Of Triton and its steps, pages that several share counted once."""
    total = 0
    for pid in (server.pid, *children_of(server.pid)):
        with contextlib.suppress(OSError):  # a process that ended, which `main` tells
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])
    return total / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0, help="seconds after each answer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository, expected = repository_of(options.models, Path(folder))
        with serve(repository) as server:
            load = Load(server, expected, options.minutes * 60, options.pause)
            threads = [
                threading.Thread(target=load.client, args=(i,)) for i in range(options.clients)
            ]
            pids = {server.pid, *children_of(server.pid)}
            for thread in threads:
                thread.start()
            memory = []
            while any(thread.is_alive() for thread in threads):
                memory.append(memory_mb(server))
                if len(memory) % 60 == 0:  # five minutes
                    print(f"{memory[-1]:.0f} MB, {load.counts.total()} requests", file=sys.stderr)
                time.sleep(min(5, options.minutes))
            alive = pids == {server.pid, *children_of(server.pid)}
    quarter = len(memory) // 4
    early, late = (np.median(memory[i * quarter : (i + 1) * quarter]) for i in (1, 3))
    print(f"{dict(load.counts)}, {len(load.failures)} failures {load.failures[:3]}")
    print(f"memory {early:.0f} MB in the second quarter, {late:.0f} MB in the last; ", end="")
    print("all processes lived" if alive else "a process ended")
    sys.exit(int(load.failures != [] or not alive or late > early * (1 + MOST_GROWTH)))


if __name__ == "__main__":
    main()
