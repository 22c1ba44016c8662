"""`batch` on many small images, with workers and the command itself killed; and against a server.

    python benchmarks/batch.py exports/dfvt_t_classification --engine local [--images 20000]
    python benchmarks/batch.py exports/dfvt_t_classification --served [--images 1000]

The first kills a worker (an actor of Ray) after each tenth of the images and the command after a
third and two thirds, gives the same command again, and compares every row with the offline
pipeline. It prints the largest memory of the command and of a worker in each quarter of the run.
The second answers the same images by `predict`, `--engine triton` and `--engine local` in turn.
Ends with an AssertionError if anything was not as it must.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from dfvt_deploy import batch, open_artifact, populate, predict, serve
from dfvt_deploy.artifact import Artifact
from dfvt_deploy.pipeline import Pipeline
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.serving.process import children_of
from dfvt_deploy.tasks.images import decode_image

DISTINCT = 100


def make_images(folder: Path, count: int, bad: int) -> list[bytes]:
    """`count` files in folders of a thousand, `bad` of them cut; returns the distinct images."""
    rng, distinct = np.random.default_rng(0), []
    for i in range(DISTINCT):
        pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((96 + i, 72), Image.Resampling.BICUBIC)
        path = folder / "one.jpg"
        image.save(path, quality=90)
        distinct.append(path.read_bytes())
    path.unlink()
    every = count // bad if bad else count + 1
    for i in range(count):
        path = folder / f"{i // 1000:03}" / f"{i:06}.jpg"
        path.parent.mkdir(exist_ok=True)
        data = distinct[i % DISTINCT]
        path.write_bytes(data[: len(data) // 3] if i % every == every - 1 else data)
    return distinct


def offline(artifact: Artifact, images: list[bytes]) -> list[np.ndarray]:
    pipeline = Pipeline(artifact.manifest)
    with OnnxRuntimeRunner(artifact.onnx_path(), threads=1) as runner:
        inputs = [pipeline.prepare(decode_image(image)) for image in images]
        return [
            pipeline.postprocess(each, runner.infer(pipeline.feed(each)))["scores"][0]
            for each in inputs
        ]


def descendants(pid: int) -> list[int]:
    return [x for child in children_of(pid) for x in (child, *descendants(child))]


def read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def megabytes(pid: int) -> float:
    pages = read(pid, "statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if pages else 0.0


def core_seconds(pid: int) -> np.ndarray:
    """Seconds that the threads of a process ran, and that they waited for a core of others."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    stats = [read(pid, f"task/{thread.name}/schedstat").split() for thread in threads]
    return np.array([[int(s[0]), int(s[1])] for s in stats if s]).sum(axis=0) / 1e9


def print_cores(workers: list[int], seconds: float = 20) -> None:
    """How busy workers keep their cores: running, or kept from it by the machine's other work."""
    before, start = [*map(core_seconds, workers)], time.perf_counter()
    time.sleep(seconds)
    wall, after = time.perf_counter() - start, [*map(core_seconds, workers)]
    for old, new in zip(before, after, strict=True):
        ran, waited = (new - old) / wall
        print(f"  a worker ran {ran:.0%} of the time and waited for a core {waited:.0%}")


def run_with_kills(words: list[str], output: Path, shards: int, victim: str) -> None:
    kills = {shards * i // 10 for i in range(1, 10)}
    ends = [shards // 3, shards * 2 // 3, shards + 1]
    memory: dict[int, list[float]] = {i: [0.0, 0.0] for i in range(4)}
    killed, measured = 0, False
    for end in ends:
        with subprocess.Popen(words) as driver:
            while driver.poll() is None:
                done = len([*output.glob("results/*.parquet")])
                workers = [p for p in descendants(driver.pid) if victim in read(p, "cmdline")]
                quarter = memory[min(3, 4 * done // shards)]
                quarter[0] = max(quarter[0], megabytes(driver.pid))
                quarter[1] = max([quarter[1], *map(megabytes, workers)])
                if done >= end:
                    driver.kill()
                elif "worker" in victim and done and len(workers) > 1 and not measured:
                    measured = True
                    print_cores(workers)
                elif workers and {n for n in kills if n <= done}:
                    kills -= {n for n in kills if n <= done}
                    os.kill(workers[0], signal.SIGKILL)
                    killed += 1
                time.sleep(0.5)
        print(f"  ended with {driver.returncode} after {done} of {shards} shards")
    assert driver.returncode == 0
    print(f"  {killed} processes were killed, and the command {len(ends) - 1} times")
    print(f"  largest MB of command and worker by quarter: {memory}")


def check(output: Path, folder: Path, expected: list[np.ndarray], count: int, bad: int) -> None:
    results, failures = (pq.read_table(output / n).to_pylist() for n in ("results", "failures"))
    assert sorted(r["index"] for r in results + failures) == list(range(count))
    assert {Path(r["image"]) for r in results + failures} == {*folder.rglob("*.jpg")}
    every = count // bad
    numbers = [int(Path(r["image"]).stem) for r in failures]
    assert sorted(numbers) == list(range(every - 1, count, every))[: len(numbers)]
    assert len(numbers) == bad
    worst = max(
        float(np.abs(np.array(r["scores"]) - expected[int(Path(r["image"]).stem) % DISTINCT]).max())
        for r in results
    )
    print(
        f"  {len(results)} answered, {len(failures)} failed, scores within {worst:.1e} of offline"
    )
    assert worst < 1e-5


def cpu_seconds() -> float:
    """Of this process and all that it started, those that ended included."""
    tick, used = os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])
    for pid in descendants(os.getpid()):
        fields = read(pid, "stat").rpartition(")")[2].split()
        used += sum(map(int, fields[11:13])) / tick if fields else 0
    return used


def against_served(artifact: Artifact, folder: Path, rounds: int = 3) -> None:
    """Images a second of three ways in turn, and what each took of the processors.

    On a machine with other work, a server with its six processes gets more of the cores than two
    workers; so CPU seconds an image are the fairer figure there.
    """
    name, exports = artifact.manifest.name, artifact.directory.parent
    paths = sorted(folder.rglob("*.jpg"))
    figures: dict[str, list[tuple[float, float]]] = {"predict": [], "triton": [], "local": []}
    with tempfile.TemporaryDirectory() as place:
        populate(artifact.directory, repository=Path(place) / "r")
        with serve(Path(place) / "r") as server:
            url = server.grpc_url
            ways = {
                "predict": lambda out: [*predict(paths, name, url=url)],
                "triton": lambda out: batch(folder, name, out, engine="triton", url=(url,)),
                "local": lambda out: batch(folder, name, out, exports=exports),
            }
            for i in range(rounds):
                for way, answer in ways.items():
                    used, start = cpu_seconds(), time.perf_counter()
                    answer(Path(place) / f"{way}{i}")
                    wall, used = time.perf_counter() - start, cpu_seconds() - used
                    figures[way].append((len(paths) / wall, used / len(paths) * 1000))
                    print(
                        f"{way}: {len(paths) / wall:.1f} images/s, {used / len(paths) * 1000:.1f} "
                        f"CPU ms an image, {used / wall:.2f} CPUs busy",
                        flush=True,
                    )
    for other in ("predict", "triton"):
        pairs = [*zip(figures["local"], figures[other], strict=True)]
        faster = statistics.median(mine[0] / theirs[0] for mine, theirs in pairs)
        cheaper = statistics.median(theirs[1] / mine[1] for mine, theirs in pairs)
        print(
            f"local is {faster:.2f} times as fast as {other}, with 1/{cheaper:.2f} of its CPU time"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--served", action="store_true")
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--bad", type=int, default=200)
    options = parser.parse_args()
    artifact = open_artifact(options.model)
    with tempfile.TemporaryDirectory() as place:
        folder, output = Path(place) / "images", Path(place) / "answers"
        folder.mkdir()
        bad = 0 if options.served else options.bad
        distinct = make_images(folder, options.images, bad)
        if options.served:
            return against_served(artifact, folder)
        given = ["--model", artifact.manifest.name, "--exports", artifact.directory.parent]
        words = [sys.executable, "-m", "dfvt_deploy", "batch", folder, *given, "--output", output]
        words += ["--engine", options.engine]
        victim = {"local": "batches.worker", "ray": "ShardActor"}[options.engine]
        start = time.perf_counter()
        run_with_kills(list(map(str, words)), output, -(-options.images // 500), victim)
        print(f"  {time.perf_counter() - start:.0f} s in all")
        check(output, folder, offline(artifact, distinct), options.images, bad)


if __name__ == "__main__":
    main()
