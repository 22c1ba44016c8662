"""What one server was measured to need, and the files that `plan` reads it from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..benchmarking.results import Bench, ServedRow
from ..errors import BadInput
from ..json_files import read_json
from ..manifest import Record
from ..names import STEPS

Count = Annotated[int, Field(ge=1)]
Samples = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class Step(Record):
    """One step that each request passes, and where it waits for its turn.

    milliseconds: measured times of one execution while nothing else ran, by the number of images in
        its batch; each sample is as likely as the others, and no larger batch is made.
    instances: executions at the same time; None for any number.
    busy: processors of `device` that one execution keeps busy.
    queue_size: requests that may wait for the step; further ones are refused. None for any number.
    """

    name: str
    milliseconds: dict[Count, Samples]
    instances: Count | None = None
    device: Literal["cpu", "gpu"] = "cpu"
    busy: Annotated[float, Field(ge=0)] = 1.0
    queue_size: Count | None = None


class Figures(Record):
    """One server: its processors, and the steps of a request in their order.

    model, machine: words for people.
    together: speed of an execution while all cores are busy, as a share of its speed alone. Cores
        share caches, memory and clock.
    """

    model: str
    machine: str
    cores: Count
    gpus: Annotated[int, Field(ge=0)] = 0
    together: Annotated[float, Field(gt=0, le=1)] = 1.0
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _can_run(self) -> "Figures":
        for step in self.steps:
            if 1 not in step.milliseconds:
                raise ValueError(f"step {step.name} has no times of one image")
            if step.device == "gpu" and not self.gpus:
                raise ValueError(f"step {step.name} runs on a GPU, and gpus is 0")
        if not any(step.instances or step.busy for step in self.steps):
            raise ValueError(
                "no step has instances or keeps a processor busy, so no rate is too much"
            )
        return self


#: Percentiles of a row, and of how many in a hundred requests each stands for the time.
_SHARES = {"p50": 80, "p90": 15, "p95": 4, "p99": 1}


def read_figures(path: Path) -> Figures:
    """Read a file of figures, or of what `bench` found. Raises BadInput where the file is no JSON,
    not of these fields, or has no model that a plan can be made for."""
    document, remedy = read_json(path), "see docs/capacity.md"
    if isinstance(document, dict) and "served" in document:
        return _of_bench(Bench.read(path, remedy), path)
    return Figures.read(path, remedy)


def _of_bench(found: Bench, path: Path) -> Figures:
    """The figures of the fastest way to serve that passed its gate. A step's time is Triton's own
    of one request at a time, what is left of the latency is the step `request`, and `together`
    comes from the load of most requests at a time."""
    rows = [row for row in found.served if row.ranked and row.concurrency and _complete(row)]
    if len(models := sorted({row.model for row in rows})) > 1:
        raise BadInput(f"{path} has figures of {', '.join(models)}; measure one model at a time")
    alone = {_way(row): row for row in rows if row.concurrency == 1}
    crowded = [row for row in rows if row.concurrency > 1 and _way(row) in alone]
    if not crowded:
        raise BadInput(
            f"{path} has no model that passed its gate, served here and measured at a concurrency "
            "of 1 and of more: validate MODEL, then bench MODEL --serve --json"
        )
    most = max(crowded, key=lambda row: row.goodput)
    one = alone[_way(most)]
    cores = int(found.hardware["cores"])
    steps = (_request(one), *(_step(one, name) for name in STEPS))
    seconds = sum(step.busy * sum(t := step.milliseconds[1]) / len(t) / 1000 for step in steps)
    return Figures(
        model=f"{one.model}, {one.title} over {one.protocol}",
        machine=", ".join(found.hardware.values()),
        cores=cores,
        together=min(1.0, most.images_per_second * seconds / cores),
        steps=steps,
    )


def _complete(row: ServedRow) -> bool:
    """Whether the server was started by `bench`, which then knows its processes."""
    return all(name in row.programs and row.programs[name].processes for name in STEPS)


def _way(row: ServedRow) -> tuple[str, str]:
    return row.title, row.protocol


def _milliseconds(row: ServedRow, name: str) -> float:
    program = row.programs[name]
    return sum(part or 0.0 for part in (program.input, program.compute, program.output))


def _step(row: ServedRow, name: str) -> Step:
    took, program = _milliseconds(row, name), row.programs[name]
    return Step(
        name=name,
        milliseconds={1: (took,)},
        instances=program.processes,
        busy=(program.cpu_ms or 0.0) / took,
    )


def _request(row: ServedRow) -> Step:
    inside = sum(_milliseconds(row, name) for name in STEPS)
    times = {"p50": row.p50.median, "p90": row.p90, "p95": row.p95, "p99": row.p99}
    rest = tuple(max(times[q] - inside, 0.01) for q, count in _SHARES.items() for _ in range(count))
    busy = (row.programs["server"].cpu_ms or 0.0) / (sum(rest) / len(rest))
    return Step(name="request", milliseconds={1: rest}, busy=min(1.0, busy))
