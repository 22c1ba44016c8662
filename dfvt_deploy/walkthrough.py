"""`quickstart`: every step for one model on a sample image, ending in a live Triton's answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .artifact import Artifact
from .conversion.export import export
from .data import SAMPLES
from .errors import StageFailed
from .serving.client import Prediction, predict
from .serving.repository import PopulatedModel, populate
from .serving.server import serve
from .types import Task, Variant

SAMPLE_IMAGE = SAMPLES / "cat.jpg"


@dataclass(frozen=True)
class QuickstartResult:
    """Seconds of each step and what came of it; `http` and `grpc` hold the same answers."""

    artifact: Artifact
    populated: PopulatedModel
    http: Prediction
    grpc: Prediction
    seconds: dict[str, float]


def quickstart(
    variant: Variant | str = Variant.S,
    task: Task | str = Task.CLASSIFICATION,
    *,
    checkpoint: str | Path | None = None,
    image: str | Path = SAMPLE_IMAGE,
    output: str | Path = "exports",
    repository: str | Path = "model_repository",
) -> QuickstartResult:
    """Export, populate, serve on free loopback ports, and ask over HTTP and gRPC.

    Raises:
        DfvtError: as the steps do; StageFailed where the two protocols do not answer alike.
    """
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal start
        seconds[step], start = time.perf_counter() - start, time.perf_counter()

    artifact = export(variant, task, checkpoint=checkpoint, output=output)
    lap("export")
    populated = populate(artifact.directory, repository=repository)
    lap("populate")
    with serve(repository) as server:
        lap("serve")
        (http,) = predict([image], populated.name, url=server.http_url, protocol="http")
        lap("predict over HTTP")
        (grpc,) = predict([image], populated.name, url=server.grpc_url, protocol="grpc")
        lap("predict over gRPC")
    lap("stop")
    different = [
        name
        for name, value in http.outputs.items()
        if not np.array_equal(value, grpc.outputs[name])
    ]
    if different:
        raise StageFailed(f"HTTP and gRPC differ in {', '.join(different)} for {image}")
    return QuickstartResult(artifact, populated, http, grpc, seconds)
