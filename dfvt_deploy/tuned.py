"""What `tune` found, as the manifest records it and `populate` reads it."""

from typing import Literal

from pydantic import BaseModel, FiniteFloat

#: The options of `populate` that decide how fast a model is served.
Setting = Literal[
    "backend", "precision", "instances", "threads", "preprocess_instances", "queue_delay_us"
]


class TunedRow(BaseModel, frozen=True, extra="forbid"):
    """A way to serve a model, as it was measured.

    verdict: that of `validate` on the file.
    problem: why it cannot be chosen: the server's reason not to start, or wrong answers.
    figures: p50_ms and p99_ms of a request, right images_per_second, and the server's memory_mb.
    final: whether it was measured for longer, being among the best.
    """

    settings: dict[Setting, str | int]
    file: str
    file_sha256: str
    verdict: str
    problem: str = ""
    figures: dict[str, FiniteFloat] = {}
    final: bool


class Tuning(BaseModel, frozen=True, extra="forbid"):
    """What one run of `tune` found, best first; `chosen` is None where no row can be."""

    created: str
    command: str
    goal: Literal["latency", "throughput"]
    machine: str
    cores: int
    chosen: TunedRow | None
    rows: tuple[TunedRow, ...]
    interrupted: bool
