"""What a server adds to the work of a request: the same steps served and in plain processes.

    python benchmarks/served_overhead.py exports/dfvt_s_classification [--rounds 5] [--seconds 6]

The steps are decoding, preprocessing, the network in onnxruntime (float32) and its answer, on the
package's samples. One request at a time: the median latency of a server with the defaults of
`populate`, and of this process with all cores. Eight at a time: images a second of the server, and
of as many plain processes of one thread as there are cores. Shuffled in each round; the last line
has medians of the ratios and differences of the rounds.
"""

import argparse
import random
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from dfvt_deploy import open_artifact
from dfvt_deploy.artifact import Artifact
from dfvt_deploy.benchmarking.bench import read_images
from dfvt_deploy.benchmarking.candidates import candidate_of
from dfvt_deploy.benchmarking.options import BenchOptions, Runtime
from dfvt_deploy.benchmarking.served import measure_target, populated
from dfvt_deploy.cores import usable_cores
from dfvt_deploy.pipeline import Pipeline
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.tasks.images import decode_image
from dfvt_deploy.types import Precision


def plain(folder: Path, threads: int, seconds: float) -> list[float]:
    """The seconds of each request that one process answers, one after the other."""
    artifact = open_artifact(folder)
    pipeline, images = Pipeline(artifact.manifest), read_images(BenchOptions())
    found: list[float] = []
    with OnnxRuntimeRunner(artifact.onnx_path(), threads=threads) as runner:
        start = None
        while start is None or time.perf_counter() < start + seconds:
            for data in images:
                begun = time.perf_counter()
                inputs = pipeline.prepare(decode_image(data))
                pipeline.postprocess(inputs, runner.infer(pipeline.feed(inputs)))
                found.append(time.perf_counter() - begun)
            if start is None:  # the first pass warms up
                start, found = time.perf_counter(), []
    return found


def served(artifact: Artifact, concurrency: int, seconds: float) -> tuple[float, float]:
    """Median milliseconds of a request, and right answers a second."""
    file = candidate_of(artifact, Runtime.ONNXRUNTIME, Precision.FP32)
    options = BenchOptions(
        serve=True, concurrency=(concurrency,), protocols=("grpc",), window=seconds / 3
    )
    rows: list = []
    with populated(artifact, file) as target:
        measure_target(artifact, target, options, read_images(options), rows, {})
    return rows[0].p50.median, rows[0].throughput


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    args = parser.parse_args()
    artifact, cores = open_artifact(args.model), usable_cores()

    def one_in_process() -> float:
        return 1000 * median(plain(args.model, cores, args.seconds))

    def plain_processes() -> float:
        with get_context("spawn").Pool(cores) as pool:
            work = [(args.model, 1, args.seconds)] * cores
            return sum(1 / (sum(found) / len(found)) for found in pool.starmap(plain, work))

    measures = {
        "served, 1 at a time, ms": lambda: served(artifact, 1, args.seconds)[0],
        "in process, ms": one_in_process,
        "served, 8 at a time, images/s": lambda: served(artifact, 8, args.seconds)[1],
        f"{cores} plain processes, images/s": plain_processes,
    }
    rounds: list[list[float]] = []
    for _ in range(args.rounds):
        found = {name: measures[name]() for name in random.sample(list(measures), len(measures))}
        rounds.append([found[name] for name in measures])
        print(", ".join(f"{name} {found[name]:.1f}" for name in measures), flush=True)
    added = median(row[0] - row[1] for row in rounds)
    ratio = median(row[2] / row[3] for row in rounds)
    print(f"at 1: +{added:.1f} ms over the process; at 8: {ratio:.2f} of plain processes")


if __name__ == "__main__":
    main()
