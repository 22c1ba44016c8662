from pathlib import Path
from typing import Literal

from ..options import Options, argument, option


class TuneOptions(Options):
    """What is looked for, under which load, and for how long."""

    command = "tune"
    model: str = argument(help="Name of the model under --exports.")
    exports: Path = option(Path("exports"), help="Folder of exported models.")
    goal: Literal["latency", "throughput"] = option(
        help="What is best: the least median latency, or the most right answers a second."
    )
    p99_ms: float | None = option(
        None, minimum=0.001, help="Milliseconds that 99 of 100 requests may take at most."
    )
    concurrency: int | None = option(
        None, minimum=1, maximum=1024, help="Requests at a time; by default 8, for latency 1."
    )
    minutes: float = option(
        5.0, minimum=0.01, maximum=1440, help="Minutes after which no measurement is begun."
    )
    images: Path | None = option(None, help="Folder of images; the package's samples by default.")
    fresh: bool = option(False, help="Measure again what an earlier run has measured.")
