"""`quickstart`: every step for one model, ending in a live Triton server's answers."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Artifact
from ..data import SAMPLES
from ..errors import StageFailed
from ..exporters.export import export
from ..exporters.options import ExportOptions
from ..files import cache_directory, staged
from ..image_files import find_images
from ..models.published import published_checkpoint
from ..models.task_model import model_of
from ..options import from_fields
from ..serving.client import Prediction, draw_prediction, predict
from ..serving.repository import PopulatedModel, populate
from ..serving.server import serve
from ..types import Variant
from .digits import digit_files
from .options import QuickstartOptions

SAMPLE_IMAGE = SAMPLES / "cat.jpg"

#: Seconds that the server of the authors' release may be silent.
_TRY_S = 10


@dataclass(frozen=True)
class QuickstartResult:
    """The model that was served, its equal answers over both protocols, and each step's seconds.

    missing: why the weights are not the authors', where these were tried in vain.
    heldout: with `example`, file, true class, answered class and score of one image of each class
        that was not trained on; `right` counts the right answers, `http` and `grpc` are the first.
    """

    artifact: Artifact
    populated: PopulatedModel
    http: Prediction
    grpc: Prediction
    seconds: dict[str, float]
    missing: str = ""
    heldout: tuple[tuple[str, str, str, float], ...] = ()
    right: int = 0


@from_fields(QuickstartOptions, "variant", "task")
def quickstart(options: QuickstartOptions) -> QuickstartResult:
    """Export a model, populate a repository, serve it on free loopback ports, and ask the server
    about one image over HTTP and over gRPC; with `example="digits"` train a model first, and ask
    about images that it was not trained on. Raises DfvtError where a step failed; StageFailed if
    the two answers for an image differ, or fewer than half of the held-out images are right."""
    options.check_files()
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def step_done(step: str) -> None:
        nonlocal start
        seconds[step], start = time.perf_counter() - start, time.perf_counter()

    exporting, images, missing = _model(options)
    step_done("train" if options.example else "checkpoint")
    artifact = export(exporting)
    step_done("export")
    populated = populate(artifact.directory, repository=options.repository)
    step_done("populate")
    with serve(options.repository) as server:
        step_done("serve")
        http = list(predict(images, populated.name, url=server.http_url, protocol="http"))
        step_done("predict over HTTP")
        grpc = list(predict(images, populated.name, url=server.grpc_url, protocol="grpc"))
        step_done("predict over gRPC")
    step_done("stop")
    different = [
        f"{name} of {one.image}"
        for one, other in zip(http, grpc, strict=True)
        for name, value in one.outputs.items()
        if not np.array_equal(value, other.outputs[name])
    ]
    if different:
        raise StageFailed(f"HTTP and gRPC differ in {', '.join(different)}")
    heldout = tuple(
        (one.image, Path(one.image).parent.name, str(one.outputs["labels"][0]), score)
        for one in (grpc if options.example else ())
        for score in one.outputs["scores"][:1].tolist()
    )
    right = sum(truth == answer for _, truth, answer, _ in heldout)
    if 2 * right < len(heldout):
        raise StageFailed(
            f"{right} of {len(heldout)} held-out images are right, at least half must be; find "
            f"where they go wrong with: {artifact.command('validate')}"
        )
    with staged(options.picture) as temporary:
        draw_prediction(grpc[0]).save(temporary, "PNG")
    return QuickstartResult(artifact, populated, http[0], grpc[0], seconds, missing, heldout, right)


def _model(options: QuickstartOptions) -> tuple[ExportOptions, list[Path], str]:
    """What is exported, the images that the server is asked about, and why the weights are not the
    authors' where these were tried in vain. The example is trained here."""
    common: dict[str, Any] = {"task": options.task, "output": options.output}
    if options.example:
        files = digit_files(cache_directory() / options.example)
        images = {path.parent: path for path in find_images(files.heldout)}  # one of each class
        common |= {"checkpoint": str(files.checkpoint), "labels": files.labels}
        chosen = ExportOptions(variant=Variant.T, name=options.example, **common)
        return chosen, list(images.values()), ""
    variant, checkpoint, missing = options.variant or Variant.S, options.checkpoint, ""
    if not checkpoint and variant in model_of(options.task).release_files:
        try:
            published_checkpoint(options.task, variant, timeout=_TRY_S)
            checkpoint = "published"
        except StageFailed as error:
            missing = str(error)
    chosen = ExportOptions(variant=variant, checkpoint=checkpoint, **common)
    return chosen, [options.image or SAMPLE_IMAGE], missing
