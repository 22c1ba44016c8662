"""INT8 against FP32 in onnxruntime on a CPU, by turns in one process, and what bounds each.

    python benchmarks/int8_against_fp32.py [--task T] [--variant s] [--size 512x512] [--batch 1]
        [--threads 2] [--pairs 200] [--calibration DIR]

Machines are noisy, so each pair runs back to back and the median of the ratios is the figure. The
profile is onnxruntime's, of separate runs, summed over kernels of one kind.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime

from dfvt_deploy import convert, export
from dfvt_deploy.types import Task

PROFILED_RUNS = 30


def session(path: Path, threads: int, profile: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def kernel_shares(path: Path, feed: dict[str, np.ndarray], threads: int) -> dict[str, float]:
    """Milliseconds of one run by kind of kernel, longest first."""
    with tempfile.TemporaryDirectory() as folder:
        profiled = session(path, threads, Path(folder) / "profile")
        for _ in range(PROFILED_RUNS):
            profiled.run(None, feed)
        events = json.loads(Path(profiled.end_profiling()).read_text())
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    return {name: dur / 1e3 / PROFILED_RUNS for name, dur in spent.most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="classification", choices=[t.value for t in Task])
    parser.add_argument("--variant", default="s")
    parser.add_argument("--size", default="512x512", help="of dense tasks, HxW")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--calibration", type=Path, help="folder of images; samples without it")
    options = parser.parse_args()
    dense = options.task != Task.CLASSIFICATION
    height, width = map(int, options.size.split("x")) if dense else (224, 224)
    rng = np.random.default_rng(0)
    feed: dict[str, np.ndarray] = {
        "images": rng.integers(0, 256, (options.batch, height, width, 3), dtype=np.uint8)
    }
    if dense:
        feed["image_sizes"] = np.tile(np.array([height, width], np.int64), (options.batch, 1))
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(options.variant, options.task, output=folder)
        int8 = convert(artifact.directory, "int8", calibration=options.calibration).file
        fp32 = artifact.onnx_path()
        sessions = [session(path, options.threads) for path in (fp32, int8)]
        for _ in range(5):
            for each in sessions:
                each.run(None, feed)
        seconds = np.empty((options.pairs, 2))
        for pair in seconds:
            for i, each in enumerate(sessions):
                start = time.perf_counter()
                each.run(None, feed)
                pair[i] = time.perf_counter() - start
        ratios = seconds[:, 0] / seconds[:, 1]
        low, median, high = np.percentile(ratios, [10, 50, 90])
        print(
            f"DFvT-{options.variant.upper()} {options.task} {height}x{width}, batch "
            f"{options.batch}, {options.threads} threads: FP32 {np.median(seconds[:, 0]) * 1e3:.1f}"
            f" ms, INT8 {np.median(seconds[:, 1]) * 1e3:.1f} ms; ratio {median:.2f} "
            f"(10-90 %: {low:.2f}-{high:.2f})"
        )
        for name, path in (("FP32", fp32), ("INT8", int8)):
            spent = kernel_shares(path, feed, options.threads)
            total = sum(spent.values())
            parts = ", ".join(f"{op} {ms / total:.0%}" for op, ms in list(spent.items())[:8])
            print(f"{name} kernels, {total:.1f} ms in all: {parts}")


if __name__ == "__main__":
    main()
