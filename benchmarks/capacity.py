"""What one server needs for an image, and whether the simulation of `plan` predicts its latencies.

    python benchmarks/capacity.py exports/dfvt_s_classification --figures figures.json

Serves the model. One client sends one request at a time, and Triton's statistics tell what each
step took; several clients at once tell what the cores lose when all are busy. That is written to
--figures, which `dfvt-deploy plan` reads. Then, for each of --loads, requests are sent at random
times without waiting for answers (Poisson; a latency counts from when the request was due), and the
simulation is given the same times. Ends with 1 if a p99 is further off than --tolerance.
"""

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from dfvt_deploy import open_artifact, populate, serve
from dfvt_deploy.capacity.figures import Figures, read_figures
from dfvt_deploy.capacity.simulation import simulate
from dfvt_deploy.data import SAMPLES

STEPS = ("preprocess", "network", "postprocess")


def request(images: list[bytes]) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image] for image in images], np.object_))
    return tensor


def spent(client: triton.InferenceServerClient, name: str, before: dict | None = None) -> dict:
    """Executions so far and nanoseconds of computing, by step.

    Waits until each step has counted one more than `before`, as Triton answers before it counts.
    """
    while True:
        found = {}
        for each in client.get_inference_statistics().model_stats:
            step = each.name.removeprefix(f"{name}_")
            if step in STEPS:
                stats = each.inference_stats
                parts = (stats.compute_input, stats.compute_infer, stats.compute_output)
                found[step] = each.execution_count, sum(part.ns for part in parts)
        if before is None or all(found[step][0] > before[step][0] for step in STEPS):
            return found


def measure(
    url: str, name: str, images: list[bytes], options: argparse.Namespace, times: dict
) -> None:
    """Add the milliseconds of each step and of the rest of a request, by images in the request."""
    with triton.InferenceServerClient(url) as client:
        before = spent(client, name)
        for size in options.sizes:
            for number in range(options.repeats + 5):
                chosen = [images[(number + i) % len(images)] for i in range(size)]
                start = time.perf_counter()
                client.infer(name, [request(chosen)])
                whole = time.perf_counter() - start
                after = spent(client, name, before)
                took = {s: (after[s][1] - before[s][1]) / 1e6 for s in STEPS}
                before = after
                took["request"] = max(whole * 1000 - sum(took.values()), 0.01)
                for step, milliseconds in took.items():
                    if number >= 5:
                        several = times.setdefault(step, {}).setdefault(size, [])
                        several.append(round(milliseconds, 3))


def throughput(
    url: str, name: str, images: list[bytes], seconds: float, clients: int = 16
) -> tuple[float, float]:
    """Images a second of clients that each wait for their answer, and the network's mean batch."""

    def ask(number: int) -> int:
        count = 0
        with triton.InferenceServerClient(url) as client:
            while time.perf_counter() < end:
                client.infer(name, [request([images[(number + count) % len(images)]])])
                count += 1
        return count

    with triton.InferenceServerClient(url) as watching, ThreadPoolExecutor(clients) as pool:
        before = spent(watching, name)["network"][0]
        end = time.perf_counter() + seconds
        count = sum(pool.map(ask, range(clients)))
        return count / seconds, count / (spent(watching, name)["network"][0] - before)


def offered(url: str, name: str, images: list[bytes], due: np.ndarray) -> np.ndarray:
    """Seconds from when each request was due until its answer; infinite where it was refused."""
    latencies = np.full(len(due), np.inf)
    answered = threading.Semaphore(0)
    with triton.InferenceServerClient(url) as client:
        start = time.perf_counter() + 0.2

        def keep(number: int, error: Exception | None) -> None:
            if error is None:
                latencies[number] = time.perf_counter() - start - due[number]
            answered.release()

        for number, when in enumerate(due):
            time.sleep(max(0.0, start + when - time.perf_counter()))
            client.async_infer(
                name,
                [request([images[number % len(images)]])],
                lambda result, error, number=number: keep(number, error),
            )
        for _ in due:
            answered.acquire()
    return latencies


def figures_of(
    name: str, times: dict, options: argparse.Namespace, most: float, batch: float
) -> dict:
    """The document that `plan` reads.

    Args:
        most, batch: images a second of the closed loop, and the network's mean batch in it.
    """
    cores = len(os.sched_getaffinity(0))
    instances = {"preprocess": options.decoders, "network": options.instances, "postprocess": 1}
    steps: list[dict] = [{"name": "request", "milliseconds": {1: times["request"][1]}}]
    for step in STEPS:
        batched = step == "network"
        steps.append(
            {
                "name": step,
                "milliseconds": times[step] if batched else {1: times[step][1]},
                "instances": instances[step],
                "busy": (options.threads or cores) if batched else 1,
                "queue_size": 128,
            }
        )
    seconds = 0.0
    for step in steps:
        means = {size: np.mean(some) / size for size, some in step["milliseconds"].items()}
        seconds += step.get("busy", 1) * np.interp(batch, list(means), list(means.values())) / 1000
    alone = cores / seconds
    print(f"closed loop: {most:.1f} images/s in batches of {batch:.1f}; {alone:.1f} as if alone")
    return {
        "model": name,
        "machine": f"{cores} cores, {platform.machine()}",
        "cores": cores,
        "together": min(1.0, most / alone),
        "steps": steps,
    }


def compare(load: dict, found: np.ndarray, figures: Figures) -> dict:
    """Print the percentiles of an offered load beside the simulated ones."""
    simulated = simulate(figures, arrivals(load))
    row = dict(load)
    for q in (50, 90, 99):
        counted = found[len(found) // 10 :]
        row[f"p{q}_ms"] = float(np.percentile(counted, q, method="higher")) * 1000
        row[f"p{q}_simulated"] = simulated.percentile(q) * 1000
    print({key: round(value, 1) for key, value in row.items()})
    return row


def arrivals(load: dict) -> np.ndarray:
    gaps = np.random.default_rng(load["seed"]).exponential(1 / load["rate"], load["requests"])
    return np.cumsum(gaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--figures", type=Path, default=Path("figures.json"))
    parser.add_argument("--record", type=Path, help="file of the figures and of what was compared")
    parser.add_argument("--instances", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--decoders", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--loads", type=float, nargs="*", default=[0.3, 0.45, 0.6])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tolerance", type=float, default=0.2)
    options = parser.parse_args()
    artifact = open_artifact(options.model)
    name = artifact.manifest.name
    images = [path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))]
    settings = {
        "instances": options.instances,
        "threads": options.threads,
        "preprocess_instances": options.decoders,
    }
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        populate(artifact.directory, repository=repository, **settings)
        with serve(repository) as server:
            print(f"tritonserver {server.pid}", flush=True)
            url = server.grpc_url
            times: dict[str, dict[int, list[float]]] = {}
            closed, loads, found = [], [], []
            for seed, share in enumerate(options.loads or [0]):
                # Each time anew, as the machine's speed may drift.
                measure(url, name, images, options, times)
                closed.append(throughput(url, name, images, options.seconds / 3))
                if share:
                    rate = share * closed[0][0]
                    count = round(rate * options.seconds)
                    loads.append({"rate": rate, "seed": seed, "requests": count})
                    found.append(offered(url, name, images, arrivals(loads[-1])))
    document = figures_of(name, times, options, *map(float, np.mean(closed, axis=0)))
    options.figures.write_text(json.dumps(document))
    figures = read_figures(options.figures)
    for step in figures.steps:
        means = {size: round(np.mean(t), 2) for size, t in step.milliseconds.items()}
        print(f"{step.name}: mean ms by images {means}")
    rows = [compare(*each, figures) for each in zip(loads, found, strict=True)]
    if options.record:
        options.record.write_text(json.dumps({"figures": document, "loads": rows}))
    off = [abs(row["p99_simulated"] / row["p99_ms"] - 1) for row in rows]
    raise SystemExit(any(each > options.tolerance for each in off))


if __name__ == "__main__":
    main()
