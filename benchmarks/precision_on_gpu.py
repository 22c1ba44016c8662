"""FP16 on a GPU: the converted file in onnxruntime, beside PyTorch's own half precision.

    python benchmarks/precision_on_gpu.py exports/dfvt_s_classification [--checkpoint FILE]
        [--images DIR] [--limit 64] [--batches 1 8 64] [--pairs 50]

Every form of the model sees the same images and is compared with float32 PyTorch on the GPU
(without TF32). Speed is the median of the ratios of calls made in turns, transfers included.
"""

import argparse
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dfvt_deploy import open_artifact
from dfvt_deploy.compare import comparison_of
from dfvt_deploy.compare.agreement import Agreement
from dfvt_deploy.exporters.recipe import as_input, random_images
from dfvt_deploy.models.build import model_from_manifest
from dfvt_deploy.runners import Runner, Tensors
from dfvt_deploy.runners.onnx_runtime import CUDA, OnnxRuntimeRunner
from dfvt_deploy.runners.pytorch import PytorchRunner
from dfvt_deploy.tasks import classification, detection, segmentation
from dfvt_deploy.tasks.images import decode_image
from dfvt_deploy.types import Precision, Task

HALF_PYTORCH = "PyTorch, autocast to float16"
TASKS = {
    Task.CLASSIFICATION: classification,
    Task.DETECTION: detection,
    Task.SEGMENTATION: segmentation,
}


class HalfPytorch(PytorchRunner):
    """PyTorch's automatic mixed precision."""

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        with torch.autocast("cuda", torch.float16):
            return super().infer(feed)


def seconds(runner: Runner, feed: Tensors) -> float:
    start = time.perf_counter()
    runner.infer(feed)
    return time.perf_counter() - start


def feeds(artifact: Any, folder: Path | None, limit: int) -> list[Tensors]:
    """One image each: those of a folder, or generated ones of assorted sizes."""
    task = artifact.manifest.task
    names = [spec.name for spec in artifact.manifest.inputs]
    if folder is None:
        sizes = [(480, 640), (333, 500), (640, 427), (224, 224), (600, 900)]
        if task is Task.CLASSIFICATION:
            sizes = [(224, 224)]
        from PIL import Image

        images = [
            Image.fromarray(random_images(i + 1, *sizes[i % len(sizes)])[-1]) for i in range(limit)
        ]
    else:
        files = sorted(path for path in folder.rglob("*") if path.is_file())[:limit]
        images = [decode_image(path.read_bytes()) for path in files]
    made = [TASKS[task].preprocess_batch([image]) for image in images]
    kind = artifact.manifest.input_kind
    return [{n: as_input(one[n], kind) if n == "images" else one[n] for n in names} for one in made]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--pairs", type=int, default=50)
    options = parser.parse_args()
    artifact = open_artifact(options.artifact)
    manifest = artifact.manifest
    model = model_from_manifest(manifest, options.checkpoint)
    torch.backends.cuda.matmul.allow_tf32 = False
    half_pytorch = HalfPytorch(manifest, model, "cuda")
    # The eager RoIAlign is not written for tensors of two types.
    candidates: dict[str, Runner] = {
        **({} if manifest.task is Task.DETECTION else {HALF_PYTORCH: half_pytorch}),
        "onnxruntime CUDA, model.onnx": OnnxRuntimeRunner(artifact.onnx_path(), CUDA),
        "onnxruntime CUDA, model.fp16.onnx": OnnxRuntimeRunner(
            artifact.onnx_path(Precision.FP16), CUDA
        ),
        "onnxruntime CPU, model.fp16.onnx": OnnxRuntimeRunner(artifact.onnx_path(Precision.FP16)),
    }
    inputs = feeds(artifact, options.images, options.limit)
    with ExitStack() as stack:
        reference = stack.enter_context(PytorchRunner(manifest, model, "cuda"))
        running = {name: stack.enter_context(runner) for name, runner in candidates.items()}
        print(f"{manifest.name}, {len(inputs)} images, {torch.cuda.get_device_name()}")
        totals: dict[str, Agreement] = {}
        for feed in inputs:
            expected = reference.infer(feed)
            for name, runner in running.items():
                outputs = runner.infer(feed)
                found = comparison_of(manifest.task).outputs(
                    {key: expected[key] for key in expected if key in outputs},
                    outputs,
                    feed.get("image_sizes"),
                )
                totals[name] = totals[name] + found if name in totals else found
        for name, total in totals.items():
            print(f"  {name}:")
            print("   ", ", ".join(f"{key} {value:.5g}" for key, value in total.figures.items()))
            for tensor, figures in total.tensors.items():
                print(
                    f"    {tensor}: max abs {figures.max_abs:.4g}, mean {figures.mean_abs:.3g}, "
                    f"cosine {figures.cosine:.7f}, not finite {figures.non_finite}"
                )
        timed = {
            "fp16 file": running["onnxruntime CUDA, model.fp16.onnx"],
            "fp32 file": running["onnxruntime CUDA, model.onnx"],
            **({"PyTorch autocast": running[HALF_PYTORCH]} if HALF_PYTORCH in running else {}),
            "PyTorch float32": reference,
        }
        for size in options.batches:
            batch = {key: np.repeat(value, size, axis=0) for key, value in inputs[0].items()}
            for runner in timed.values():
                for _ in range(5):
                    runner.infer(batch)
            times = np.array(
                [
                    [seconds(runner, batch) for runner in timed.values()]
                    for _ in range(options.pairs)
                ]
            )
            print(f"  images {'x'.join(map(str, batch['images'].shape))}, median ms:")
            for i, label in enumerate(timed):
                low, median, high = np.percentile(times[:, i] / times[:, 0], [10, 50, 90])
                print(
                    f"    {label}: {np.median(times[:, i]) * 1e3:.2f}, "
                    f"{median:.2f} times the fp16 file ({low:.2f}-{high:.2f})"
                )


if __name__ == "__main__":
    main()
