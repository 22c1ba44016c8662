"""onnxruntime against PyTorch eager for one model, pair by pair in one process.

    python benchmarks/onnxruntime_against_eager.py [--task T] [--variant s] [--size 512x512]
        [--batch 1] [--threads 2] [--pairs 100]

Segmentation is timed from pixels to class map on both sides. Machines are noisy, so each pair runs
back to back and the median of the ratios is the figure.
"""

import argparse
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from dfvt_deploy import export
from dfvt_deploy.conversion.recipes import RECIPES
from dfvt_deploy.models.build import build_model, fill_untrained
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.types import Task


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="classification", choices=list(RECIPES))
    parser.add_argument("--variant", default="s")
    parser.add_argument("--size", default="512x512", help="of dense tasks, HxW")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = build_model(options.task, options.variant)
    fill_untrained(model)
    dense = options.task != Task.CLASSIFICATION
    height, width = map(int, options.size.split("x")) if dense else (224, 224)
    images = torch.randn(options.batch, 3, height, width)
    sizes = torch.tensor([[height, width]] * options.batch)
    feed = {"images": images.numpy()} | ({"image_sizes": sizes.numpy()} if dense else {})

    def eager() -> torch.Tensor:
        if options.task == Task.SEGMENTATION:
            logits = F.interpolate(model(images, sizes), (height, width), mode="bilinear")
            return logits.argmax(1)
        return model(images, sizes) if dense else model(images)

    with tempfile.TemporaryDirectory() as folder:
        artifact = export(options.variant, options.task, output=folder, input_kind="float32")
        with (
            OnnxRuntimeRunner(artifact.onnx_path(), threads=options.threads) as runner,
            torch.inference_mode(),
        ):
            for _ in range(3):
                eager()
                runner.infer(feed)
            pairs = np.array(
                [
                    (seconds(eager), seconds(lambda: runner.infer(feed)))
                    for _ in range(options.pairs)
                ]
            )
    ratios = pairs[:, 0] / pairs[:, 1]
    low, median, high = np.percentile(ratios, [10, 50, 90])
    print(
        f"DFvT-{options.variant.upper()} {options.task} {height}x{width}, "
        f"batch {options.batch}, {options.threads} threads: "
        f"eager {np.median(pairs[:, 0]) * 1e3:.1f} ms, onnxruntime "
        f"{np.median(pairs[:, 1]) * 1e3:.1f} ms; ratio {median:.2f} (10-90 %: {low:.2f}-{high:.2f})"
    )


if __name__ == "__main__":
    main()
