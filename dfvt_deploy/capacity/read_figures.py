"""The files that `plan` reads: figures of one server, or what `bench --serve --json` printed."""

from pathlib import Path

from pydantic import ValidationError

from ..benchmarking.results import Bench, ServedRow
from ..errors import BadInput
from ..json_files import read_json
from ..names import STEPS
from .figures import Figures, Step

#: Percentiles of a row, and of how many in a hundred requests each stands for the time.
_SHARES = {"p50": 80, "p90": 15, "p95": 4, "p99": 1}


def read_figures(path: Path) -> Figures:
    """Read a file of figures, or of what `bench` found.

    Raises:
        BadInput: the file is no JSON, not of these fields, or `_of_bench` raises it.
    """
    document = read_json(path)
    try:
        if isinstance(document, dict) and "served" in document:
            return _of_bench(Bench.model_validate(document), path)
        return Figures.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the figures"
        raise BadInput(f"{path}: {where}: {first['msg']}; see docs/capacity.md") from None


def _of_bench(found: Bench, path: Path) -> Figures:
    """The figures of the fastest way to serve that passed its gate.

    A step's time is Triton's own of one request at a time, what is left of the latency is the
    step `request`, and `together` comes from the load of most requests at a time.

    Raises:
        BadInput: no row has what a plan needs, or the rows are of several models.
    """
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
