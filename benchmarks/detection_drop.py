"""Which disagreements of a detector's form with model.onnx cost average precision.

    python benchmarks/detection_drop.py exports/detector --data heldout --calibration images
        [--forms int8 bf16] [--limit 100] [--threads 2]

`rounded` is model.fp16.onnx with every FP16 tensor rounded, as no CPU provider does; `bf16` is
OpenVINO. Then one kind of disagreement at a time is put into the answers of model.onnx: of
detections that both gave (same class, IoU above 0.9) the form's scores, boxes or masks; without the
detections that the form lacks; with those that are new.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from dfvt_deploy.artifact import Artifact, open_artifact
from dfvt_deploy.compare import comparison_of
from dfvt_deploy.compare.agreement import total
from dfvt_deploy.compare.detection import match_detections
from dfvt_deploy.evaluate.datasets import Sample, open_dataset
from dfvt_deploy.evaluate.judge import decide
from dfvt_deploy.evaluate.metrics import metric_of
from dfvt_deploy.pipeline import Pipeline
from dfvt_deploy.precision.calibration import calibration_images
from dfvt_deploy.precision.fp16_conversion import Fp16Conversion
from dfvt_deploy.runners import Runner, Tensors
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.openvino import OpenVINORunner
from dfvt_deploy.tasks.images import decode_image
from dfvt_deploy.types import Precision, Task

METRIC = metric_of(Task.DETECTION)
FORMS = ("fp16", "rounded", "int8", "bf16")
KINDS = ("scores", "boxes", "masks", "missing", "new")

#: Lower bounds of the scores for which the share of detections found again is given.
SCORES = (0.1, 0.3, 0.5, 0.7)


class Found(NamedTuple):
    """The detections of one image, as the served model answers them."""

    boxes: NDArray[Any]
    scores: NDArray[Any]
    class_ids: NDArray[Any]
    masks: NDArray[Any]

    @property
    def labels(self) -> NDArray[Any]:
        return self.class_ids

    @classmethod
    def of(cls, answers: Tensors) -> "Found":
        n = int(answers["num_detections"].item())
        return cls(*(answers[name][0][:n] for name in cls._fields))

    def part(self, rows: NDArray[np.int64]) -> "Found":
        return Found(*(value[rows] for value in self))

    def result(self, sample: Sample) -> dict[str, object]:
        best_first = self.part(np.argsort(-self.scores, kind="stable"))
        answers = {**best_first._asdict(), "num_detections": np.array(len(self.scores))}
        return METRIC.image_result(answers, sample)


def mixed(a: Found, b: Found, kind: str) -> Found:
    """Detections `a`, but for one kind of disagreement those of `b`."""
    matches = match_detections(a, b)
    rows, others = matches.pairs.T
    if kind == "missing":
        return a.part(rows)
    if kind == "new":
        return Found(*(np.concatenate(both) for both in zip(a, b.part(matches.extra), strict=True)))
    value = getattr(a, kind).copy()
    value[rows] = getattr(b, kind)[others]
    return a._replace(**{kind: value})


def runner_of(artifact: Artifact, form: str, calibration: Path, threads: int) -> Runner:
    if form == "bf16":
        return OpenVINORunner(artifact.onnx_path(), Precision.BF16, threads)
    if form != "rounded":
        return OnnxRuntimeRunner(artifact.onnx_path(Precision(form)), threads=threads)
    conversion = Fp16Conversion(onnx.load(artifact.onnx_path()), Path(), data_max=512)
    conversion.calibrate(
        calibration_images(artifact.manifest, calibration, images=16, max_side=512)
    )
    record = artifact.manifest.conversions["model.fp16.onnx"]
    trial = conversion.trial(conversion.kept(record.kept_fp32, ()))
    return OnnxRuntimeRunner(trial.SerializeToString(), threads=threads)


def answers_of(
    opened: AbstractContextManager[Runner], pipeline: Pipeline, samples: Sequence[Sample]
) -> Iterator[Tensors]:
    with opened as runner:
        for sample in samples:
            inputs = pipeline.prepare(decode_image(sample.path.read_bytes()))
            yield pipeline.postprocess(inputs, runner.infer(pipeline.feed(inputs)))


def print_form(
    form: str, expected: list[Tensors], given: list[Tensors], samples: Sequence[Sample]
) -> None:
    compare = comparison_of(Task.DETECTION).answers
    agreement = total(Task.DETECTION, map(compare, expected, given))
    a, b = ([Found.of(one) for one in answers] for answers in (expected, given))
    reference = [one.result(sample) for one, sample in zip(a, samples, strict=True)]
    candidate = [one.result(sample) for one, sample in zip(b, samples, strict=True)]
    decision = decide(METRIC, reference, candidate, 1)
    before, after = METRIC.score(reference), METRIC.score(candidate)
    print(
        f"{form}: box AP {before['box_ap']:.2f} to {after['box_ap']:.2f}, upper bound of the drop "
        f"{decision.upper_bound:.2f}, mask AP {before['mask_ap']:.2f} to {after['mask_ap']:.2f}"
    )
    print("  " + ", ".join(f"{k} {v:.4f}" for k, v in agreement.figures.items()))
    print("  " + ", ".join(f"{k} {v.mean_abs:.5f}" for k, v in agreement.tensors.items()))
    for least in SCORES:
        pairs = [match_detections(x, y, min_score=least) for x, y in zip(a, b, strict=True)]
        matched, missing, new = (
            sum(len(getattr(one, name)) for one in pairs) for name in ("pairs", "missing", "extra")
        )
        print(f"  above score {least}: {matched} found again, {missing} missing, {new} new")
    for kind in KINDS:
        swapped = [mixed(x, y, kind).result(s) for x, y, s in zip(a, b, samples, strict=True)]
        figures = METRIC.score(swapped)
        drops = ", ".join(f"{n} {figures[n] - before[n]:+.2f}" for n in ("box_ap", "mask_ap"))
        print(f"  only {kind}: {drops}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="images and annotations as COCO's")
    parser.add_argument("--calibration", type=Path, help="images that FP16 was calibrated with")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    artifact = open_artifact(options.artifact)
    pipeline = Pipeline(artifact.manifest)
    samples = open_dataset("coco", options.data, artifact.manifest, options.limit).samples
    reference = OnnxRuntimeRunner(artifact.onnx_path(), threads=options.threads)
    expected = list(answers_of(reference, pipeline, samples))
    for form in options.forms:
        runner = runner_of(artifact, form, options.calibration, options.threads)
        print_form(form, expected, list(answers_of(runner, pipeline, samples)), samples)


if __name__ == "__main__":
    main()
