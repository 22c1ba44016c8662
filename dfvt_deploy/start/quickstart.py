"""`quickstart`: every step for one model, ending in a live Triton server's answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..artifact import Artifact
from ..data import SAMPLES
from ..errors import StageFailed
from ..exporters.export import export
from ..files import staged
from ..models.published import published_checkpoint
from ..models.task_model import model_of
from ..serving.client import Prediction, predict
from ..serving.pictures import draw_prediction
from ..serving.repository import PopulatedModel, populate
from ..serving.server import serve
from ..types import Task, Variant
from .options import QuickstartOptions

SAMPLE_IMAGE = SAMPLES / "cat.jpg"

#: Seconds that the server of the authors' release may be silent.
_TRY_S = 10


@dataclass(frozen=True)
class QuickstartResult:
    """The model that was served, its equal answers over both protocols, and each step's seconds."""

    artifact: Artifact
    populated: PopulatedModel
    http: Prediction
    grpc: Prediction
    seconds: dict[str, float]
    missing: str = ""


def quickstart(
    variant: Variant | str = Variant.S, task: Task | str = Task.CLASSIFICATION, **fields: Any
) -> QuickstartResult:
    """Export a model, populate a repository, serve it on free loopback ports, and ask the server
    about one image over HTTP and over gRPC. `fields` are the other fields of `QuickstartOptions`.

    Raises DfvtError where a step failed; StageFailed if the two answers differ.
    """
    fields |= {"variant": variant, "task": task}
    return quickstart_with(QuickstartOptions(**fields))


def quickstart_with(options: QuickstartOptions) -> QuickstartResult:
    """`quickstart` with its options as one object."""
    options.check_files()
    image = options.image or SAMPLE_IMAGE
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def step_done(step: str) -> None:
        nonlocal start
        seconds[step], start = time.perf_counter() - start, time.perf_counter()

    checkpoint, missing = _checkpoint(options)
    artifact = export(options.variant, options.task, checkpoint=checkpoint, output=options.output)
    step_done("export")
    populated = populate(artifact.directory, repository=options.repository)
    step_done("populate")
    with serve(options.repository) as server:
        step_done("serve")
        (http,) = predict([image], populated.name, url=server.http_url, protocol="http")
        step_done("predict over HTTP")
        (grpc,) = predict([image], populated.name, url=server.grpc_url, protocol="grpc")
        step_done("predict over gRPC")
    step_done("stop")
    different = [
        name
        for name, value in http.outputs.items()
        if not np.array_equal(value, grpc.outputs[name])
    ]
    if different:
        raise StageFailed(f"HTTP and gRPC differ in {', '.join(different)} for {image}")
    with staged(options.picture) as temporary:
        draw_prediction(grpc).save(temporary, "PNG")
    return QuickstartResult(artifact, populated, http, grpc, seconds, missing)


def _checkpoint(options: QuickstartOptions) -> tuple[str | None, str]:
    """The checkpoint to export, and why it is not the authors' where that was tried in vain."""
    if options.checkpoint or options.variant not in model_of(options.task).release_files:
        return options.checkpoint, ""
    try:
        published_checkpoint(options.task, options.variant, timeout=_TRY_S)
    except StageFailed as error:
        return None, str(error)
    return "published", ""
