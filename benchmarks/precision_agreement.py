"""How far a converted file agrees with FP32 on images of the published size.

    python benchmarks/precision_agreement.py exports/dfvt_s_detection --precision fp16
        [--images DIR] [--count 10] [--max-side 1344]

FP16 is also run with every FP16 tensor rounded, as no CPU provider does. Detections above the
score limit that were not found again are listed.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx

from dfvt_deploy.artifact import open_artifact
from dfvt_deploy.compare import comparison_of
from dfvt_deploy.compare.detection import MIN_SCORE, match_detections
from dfvt_deploy.precision.calibration import calibration_images
from dfvt_deploy.precision.fp16_conversion import Fp16Conversion
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.types import Precision, Task


class Found:
    """One image's used rows, as `match_detections` takes them."""

    def __init__(self, outputs: dict[str, np.ndarray]) -> None:
        used = outputs["labels"][0] >= 0
        self.boxes, self.scores, self.labels = (
            outputs[name][0][used] for name in ("boxes", "scores", "labels")
        )


def list_missing(image: int, reference: Found, candidate: Found) -> None:
    for row in match_detections(reference, candidate, min_score=MIN_SCORE).missing:
        box = " ".join(f"{side:.1f}" for side in reference.boxes[row])
        print(
            f"  image {image}: class {reference.labels[row]}, score "
            f"{reference.scores[row]:.3f}, box {box}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--precision", type=Precision, default=Precision.FP16)
    parser.add_argument("--images", type=Path, help="folder; parts of the samples without it")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--max-side", type=int, default=2048, help="of a dense canvas")
    options = parser.parse_args()
    artifact = open_artifact(options.artifact)
    task = artifact.manifest.task
    images = calibration_images(
        artifact.manifest, options.images, images=options.count, max_side=options.max_side
    )
    feeds = list(images)
    with OnnxRuntimeRunner(artifact.onnx_path(), arena=False) as runner:
        expected = [runner.infer(feed) for feed in feeds]
    networks: dict[str, Path | bytes] = {
        f"{options.precision} file": artifact.onnx_path(options.precision)
    }
    if options.precision is Precision.FP16:
        model = onnx.load(artifact.onnx_path())
        conversion = Fp16Conversion(model, Path(), data_max=512)
        conversion.calibrate(
            calibration_images(artifact.manifest, options.images, images=16, max_side=512)
        )
        record = artifact.manifest.conversions["model.fp16.onnx"]
        trial = conversion.trial(conversion.kept(record.kept_fp32, ()))
        networks["each FP16 tensor rounded"] = trial.SerializeToString()
    for name, network in networks.items():
        total = None
        with OnnxRuntimeRunner(network, arena=False) as runner:
            for i, (feed, outputs) in enumerate(zip(feeds, expected, strict=True)):
                found = runner.infer(feed)
                one = comparison_of(task).outputs(outputs, found, feed.get("image_sizes"))
                total = one if total is None else total + one
                if task is Task.DETECTION:
                    list_missing(i, Found(outputs), Found(found))
        assert total is not None
        figures = {key: round(value, 5) for key, value in total.figures.items()}
        tensors = {key: round(value.max_abs, 5) for key, value in total.tensors.items()}
        print(f"{artifact.manifest.name}, {name}, {len(feeds)} images: {figures} {tensors}")
    sizes = [artifact.onnx_path(p).stat().st_size for p in (options.precision, Precision.FP32)]
    print(f"size {sizes[0] / 1e6:.1f} MB, {sizes[0] / sizes[1]:.1%} of FP32's")


if __name__ == "__main__":
    main()
