from pathlib import Path

from ..errors import BadInput
from ..options import Options, argument, option


class PlanOptions(Options):
    """How many images in which time, and what one server was measured to need for an image."""

    command = "plan"
    figures: Path = argument(
        help="JSON file of what one server needs: printed by bench --serve --json at a concurrency "
        "of 1 and of more, or measured by benchmarks/capacity.py."
    )
    rate: float = option(
        minimum=0.001, maximum=1e9, help="Images a second in the busiest minutes, of all clients."
    )
    p99_ms: float = option(
        minimum=0.001, maximum=10_000, help="Milliseconds in which 99 of 100 images are answered."
    )
    availability: float = option(
        0.999, minimum=0, maximum=0.9999999, help="Share of the time in which both must hold."
    )
    server_availability: float = option(
        0.99, minimum=0.5, maximum=1, help="Share of the time in which one server is at work."
    )
    price: float | None = option(
        None, minimum=0, help="Price of one server for an hour, in any currency."
    )

    def check_files(self) -> None:
        if not self.figures.is_file():
            raise BadInput(
                f"{self.figures} is no file; measure a server: dfvt-deploy bench MODEL --serve "
                f"--json > {self.figures}"
            )
