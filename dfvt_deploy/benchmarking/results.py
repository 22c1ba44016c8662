"""What `bench` found: one row for each way to run a model, and which of them are worth a look."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from ..evaluate.provenance import hardware, versions
from ..manifest import Record
from ..options import Options
from ..provenance import now
from ..types import Precision

AnyRow = TypeVar("AnyRow", bound="Row")


class Interval(Record):
    """A median and its 95 % interval by order statistics, which assumes no distribution."""

    median: float
    low: float
    high: float


class Row(Record):
    """One way to run a model.

    verdict: that of `validate`, `reference` for PyTorch, `unvalidated` where there is none, and
        `differs` for a float32 network whose outputs here were not those of the baseline.
    loss: points of the dataset's metric that it loses, where a gate measured them.
    p50, p90, p95, p99: milliseconds of single inferences or requests.
    memory_mb: peak memory of the process, served of all the server's processes.
    ratio: median over the rounds of its time over the baseline's in the same round; where saved
        results are compared, the second's median latency over the first's.
    fast_decode: whether JPEG files were decoded at reduced scale, which has verdicts of its own.
    front: whether no other ranked row is better in one figure and as good in all others.
    """

    model: str
    runtime: str
    precision: Precision
    file: str
    fast_decode: bool = False
    verdict: str
    loss: float | None = None
    p50: Interval
    p90: float
    p95: float
    p99: float
    images_per_second: float
    memory_mb: float | None = None
    ratio: Interval | None = None
    front: bool = False

    @property
    def ranked(self) -> bool:
        """PyTorch is ranked too, as what all others are judged by."""
        return self.verdict in ("passed", "reference")

    @property
    def title(self) -> str:
        return f"{self.runtime} {self.precision}{' fast-decode' if self.fast_decode else ''}"

    @property
    @abstractmethod
    def setting(self) -> str:
        """What it was run with, in a few characters."""

    @property
    def throughput(self) -> float:
        """Images a second; those with a right answer in time where a server was asked."""
        return self.images_per_second


class OfflineRow(Row):
    """A network without a server.

    difference: largest difference of its outputs from the baseline's, as a share of the largest.
    """

    batch: int
    threads: int
    streams: int
    load_seconds: float
    difference: float | None = None

    @property
    def setting(self) -> str:
        return f"b{self.batch} t{self.threads} s{self.streams}"


class Program(Record):
    """A step of the server, the server itself, or the clients: milliseconds of a request by
    Triton's own statistics, processes, cores kept busy, CPU milliseconds a request, and peak
    memory."""

    queue: float | None = None
    input: float | None = None
    compute: float | None = None
    output: float | None = None
    processes: int | None = None
    cores: float | None = None
    cpu_ms: float | None = None
    memory_mb: float | None = None


class ServedRow(Row):
    """A live server under one load, over `seconds`.

    stable: whether three successive windows agreed within 10 %.
    windows: least and most images a second of those windows.
    right, wrong, failed: requests whose answer was that of the offline pipeline, was another, and
        that got none. Latency and images a second are of all answers.
    goodput: right answers a second, those within the limit of time where one was given.
    """

    protocol: str
    concurrency: int
    rate: float
    seconds: float
    stable: bool
    windows: tuple[float, float]
    right: int
    wrong: int
    failed: int
    goodput: float
    bytes_sent: float
    bytes_received: float
    programs: dict[str, Program]

    @property
    def setting(self) -> str:
        load = f"c{self.concurrency}" if self.concurrency else f"{self.rate:g}/s"
        return f"{self.protocol} {load}"

    @property
    def ranked(self) -> bool:
        return super().ranked and not self.wrong and not self.failed

    @property
    def throughput(self) -> float:
        return self.goodput


class Bench(Record):
    """All that one run of `bench` found.

    around_ms: median milliseconds of decoding with preprocessing and of postprocessing one image,
        by model.
    left_out: what could not be measured, and why.
    interrupted: whether Ctrl-C ended the run; the rows are those measured until then.
    """

    created: str
    command: str
    hardware: dict[str, str]
    versions: dict[str, str]
    images: int
    around_ms: dict[str, tuple[float, float]] = Field(default_factory=dict)
    offline: tuple[OfflineRow, ...] = ()
    served: tuple[ServedRow, ...] = ()
    left_out: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def rows(self) -> tuple[Row, ...]:
        return (*self.offline, *self.served)

    def best(self) -> tuple[Row, Row] | None:
        """The ranked rows, but the reference, of least latency and most images a second, if any."""
        rows = [row for row in self.rows if row.ranked and row.verdict != "reference"]
        if not rows:
            return None
        return min(rows, key=lambda r: r.p50.median), max(rows, key=lambda r: r.throughput)


@dataclass
class Found:
    """What a run has found so far; see `Bench`."""

    offline: list[OfflineRow] = field(default_factory=list)
    served: list[ServedRow] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    around_ms: dict[str, tuple[float, float]] = field(default_factory=dict)

    def result(self, options: Options, images: int, *, interrupted: bool) -> Bench:
        """The result of the run, its Pareto front marked."""
        return Bench(
            created=now(),
            command=options.command_line(),
            hardware=hardware("cpu"),
            versions=versions(),
            images=images,
            around_ms=self.around_ms,
            offline=tuple(with_front(self.offline)),
            served=tuple(with_front(self.served)),
            left_out=tuple(self.left_out),
            interrupted=interrupted,
        )


def percentiles(milliseconds: Sequence[float]) -> dict[str, Any]:
    """The fields of a `Row` for at least one time."""
    p90, p95, p99 = map(float, np.percentile(milliseconds, [90, 95, 99]))
    return {"p50": median_interval(milliseconds), "p90": p90, "p95": p95, "p99": p99}


def median_interval(values: Sequence[float]) -> Interval:
    """The median of at least one value; few values give their least and largest as the interval."""
    ordered = sorted(values)
    count = len(ordered)
    # The rank of the median among the values is binomial, here by its normal approximation.
    spread = 1.96 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - spread))
    high = min(count - 1, math.ceil(count / 2 + spread))
    return Interval(median=float(np.median(ordered)), low=ordered[low], high=ordered[high])


def with_front(rows: Sequence[AnyRow]) -> list[AnyRow]:
    """The rows with those of the Pareto front marked, model by model."""

    def on_front(row: Row) -> bool:
        rivals = (other for other in rows if other.model == row.model and other.ranked)
        return row.ranked and not any(_dominates(other, row) for other in rivals)

    return [row.model_copy(update={"front": on_front(row)}) for row in rows]


def _dominates(first: Row, second: Row) -> bool:
    costs = [(r.p50.median, -r.throughput, r.memory_mb, r.loss) for r in (first, second)]
    known = [(a, b) for a, b in zip(*costs, strict=True) if a is not None and b is not None]
    return all(a <= b for a, b in known) and any(a < b for a, b in known)
