"""What else runs a classifier on this machine's CPU, beside the files of its export, in one run.

    python benchmarks/alternatives.py exports/dfvt_s_classification [--rounds 60] [--batch 1]

Eager PyTorch, torch.compile (the default, and in bfloat16), and a plain `torch.onnx.export` of the
same model at a fixed batch, in onnxruntime and in OpenVINO (float32, and its default), beside the
exported files. All take the same images; the plain ones get them normalised, which is not counted.
The order is shuffled in each round, with a rest of 20 ms between runs, as onnxruntime's waiting
threads slow what comes next. Ratios are medians over the rounds, to model.onnx in onnxruntime. The
last lines are the machine's own matrix products and which share of them model.onnx reaches.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import openvino
import torch

from dfvt_deploy import open_artifact
from dfvt_deploy.artifact import Artifact
from dfvt_deploy.benchmarking.results import median_interval
from dfvt_deploy.cores import usable_cores
from dfvt_deploy.models.build import model_from_manifest
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.openvino import OpenVINORunner
from dfvt_deploy.types import Precision

REST_S = 0.02
BASELINE = "model.onnx in onnxruntime"


def of_pytorch(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, Callable[[], object]]:
    compiled = torch.compile(model)

    def run(module: Callable, half: bool = False) -> Callable[[], object]:
        def call() -> object:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                return module(pixels)

        return call

    return {
        "PyTorch eager": run(model),
        "torch.compile": run(compiled),
        "torch.compile, bf16 autocast": run(torch.compile(model), half=True),
    }


def of_plain_export(
    model: torch.nn.Module, pixels: torch.Tensor, folder: Path, stack: ExitStack
) -> dict[str, Callable[[], object]]:
    file = folder / "plain.onnx"
    torch.onnx.export(model, (pixels,), file, input_names=["x"], dynamo=True)
    feed = {"x": pixels.numpy()}
    runner = stack.enter_context(OnnxRuntimeRunner(file))
    found: dict[str, Callable[[], object]] = {
        "plain export in onnxruntime": lambda: runner.infer(feed)
    }
    for label, hints in (("float32", {"INFERENCE_PRECISION_HINT": "f32"}), ("its default", {})):
        compiled = openvino.Core().compile_model(file, "CPU", hints)
        request = compiled.create_infer_request()
        found[f"plain export in OpenVINO, {label}"] = lambda request=request: request.infer(feed)
    return found


def of_export(
    artifact: Artifact, images: np.ndarray, stack: ExitStack
) -> dict[str, Callable[[], object]]:
    feed = {"images": images}
    found = {}
    for name in artifact.manifest.files:
        file = artifact.directory / name
        if file.suffix != ".onnx" or "tensorrt" in name:
            continue
        if "openvino" not in name:
            runner = stack.enter_context(OnnxRuntimeRunner(file))
            found[f"{name} in onnxruntime"] = lambda runner=runner: runner.infer(feed)
        kinds = [Precision.FP32, Precision.BF16] if name == "model.onnx" else [Precision.INT8]
        for kind in kinds if name == "model.onnx" or "openvino" in name else ():
            other = stack.enter_context(OpenVINORunner(file, kind))
            found[f"{name} in OpenVINO, {kind}"] = lambda other=other: other.infer(feed)
    return found


def products() -> dict[str, float]:
    """Billions of multiply-accumulates a second of a matrix product, median of ten."""
    found = {}
    size = 1536
    for label, kind in (("FP32", torch.float32), ("bf16", torch.bfloat16), ("INT8", torch.int8)):
        a, b = (torch.randint(-8, 8, (size, size)).to(kind) for _ in range(2))
        product = torch._int_mm if kind is torch.int8 else torch.mm
        times = []
        for _ in range(10):
            start = time.perf_counter()
            product(a, b)
            times.append(time.perf_counter() - start)
        found[label] = size**3 / float(np.median(times)) / 1e9
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    artifact = open_artifact(options.model)
    torch.set_num_threads(usable_cores())
    images = np.random.default_rng(0).integers(0, 256, (options.batch, 224, 224, 3), np.uint8)
    pixels = torch.from_numpy((images.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32))
    model = model_from_manifest(artifact.manifest)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        calls = {
            **of_export(artifact, images, stack),
            **of_plain_export(model, pixels, Path(folder), stack),
            **of_pytorch(model, pixels),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            for _ in range(3):
                call()
        for _ in range(options.rounds):
            for name in random.sample(list(calls), len(calls)):
                time.sleep(REST_S)
                start = time.perf_counter()
                calls[name]()
                times[name].append(1000 * (time.perf_counter() - start))
    print("| what | ms p50 | ratio | 95 % |\n|---|---|---|---|")
    for name, some in sorted(times.items(), key=lambda item: np.median(item[1])):
        ratio = median_interval([a / b for a, b in zip(some, times[BASELINE], strict=True)])
        print(f"| {name} | {np.median(some):.1f} | {ratio.median:.2f} ", end="")
        print(f"| {ratio.low:.2f}-{ratio.high:.2f} |")
    rates = products()
    reached = artifact.manifest.macs * options.batch / np.median(times[BASELINE]) / 1e6
    print(
        "GMAC/s of a matrix product:", ", ".join(f"{k} {v:.0f}" for k, v in rates.items()), end=""
    )
    print(f"; {BASELINE}: {reached:.0f}, {reached / rates['FP32']:.0%} of FP32")


if __name__ == "__main__":
    main()
