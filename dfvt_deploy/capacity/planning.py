"""`plan`: servers, processors and cost for a rate of images."""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import BadInput
from ..options import from_fields
from ..progress import spinner
from .figures import Figures, read_figures
from .options import PlanOptions
from .simulation import Load, simulate

#: Least requests of one simulation: 180 of those that count are beyond the p99.
_REQUESTS = 20_000

#: Least length of one, in limits of the p99: a server that cannot keep up is then far above it.
_LIMITS = 100

#: How near the largest rate of one server is searched, as a share of it.
_NEAR = 0.01


@dataclass(frozen=True)
class Plan:
    """What a rate of images needs.

    server_rate: images a second that one server takes within the limit.
    least: servers that take the rate. servers: with those that may be down.
    p50_ms, p99_ms, busy: of a server when `least` of them share the rate; busy by device.
    per_hour, per_million: in the price's currency, of an hour and of a million images; None
        without a price.
    """

    model: str
    machine: str
    rate: float
    server_rate: float
    least: int
    servers: int
    cores: int
    gpus: int
    p50_ms: float
    p99_ms: float
    busy: dict[str, float]
    per_hour: float | None
    per_million: float | None


@from_fields(PlanOptions, "figures")
def plan(options: PlanOptions) -> Plan:
    """How many servers a rate of images needs. Raises BadInput where the file is not of these
    fields, or one image alone takes longer than the limit."""
    figures = read_figures(options.figures)
    with spinner("simulating one server"):
        server_rate = largest_rate(figures, options.p99_ms / 1000)
        least = math.ceil(options.rate / server_rate)
        load = _under(figures, options.rate / least, options.p99_ms / 1000)
    servers = servers_needed(least, options.server_availability, options.availability)
    price = None if options.price is None else options.price * servers
    return Plan(
        model=figures.model,
        machine=figures.machine,
        rate=options.rate,
        server_rate=server_rate,
        least=least,
        servers=servers,
        cores=servers * figures.cores,
        gpus=servers * figures.gpus,
        p50_ms=load.percentile(50) * 1000,
        p99_ms=load.percentile(99) * 1000,
        busy=load.busy,
        per_hour=price,
        per_million=None if price is None else price / (options.rate * 3600) * 1e6,
    )


def largest_rate(figures: Figures, p99: float) -> float:
    """Images a second that one server answers with a p99 of at most so many seconds. Raises
    BadInput where one image alone takes longer."""
    slowest = 1000 / sum(max(step.milliseconds[1]) for step in figures.steps)
    low, high = 0.001 * slowest, slowest  # at the first, hardly ever two images at a time
    if (alone := _under(figures, low, p99).percentile(99)) > p99:
        raise BadInput(
            f"--p99-ms {p99 * 1000:g}: the p99 of one image alone is {alone * 1000:.1f} ms on "
            f"{figures.machine}; allow more, or measure faster settings"
        )
    while _under(figures, high, p99).percentile(99) <= p99:
        low, high = high, 2 * high
    while high - low > _NEAR * low:
        middle = (low + high) / 2
        if _under(figures, middle, p99).percentile(99) <= p99:
            low = middle
        else:
            high = middle
    return low


def _under(figures: Figures, rate: float, p99: float) -> Load:
    """One server with Poisson arrivals of so many images a second."""
    requests = max(_REQUESTS, math.ceil(_LIMITS * p99 * rate))
    gaps = np.random.default_rng(1).exponential(1 / rate, requests)
    return simulate(figures, np.cumsum(gaps))


def servers_needed(least: int, up: float, availability: float) -> int:
    """Servers of which `least` are at work for a share `availability` of the time, each for a share
    `up` and independently; up to a thousandth more than that."""
    servers = least
    while _at_work(servers, least, up) < availability:
        servers += max(1, servers // 1000)
    return servers


def _at_work(servers: int, least: int, up: float) -> float:
    """The share of the time in which at least so many of the servers are at work."""
    if up == 1:
        return 1.0
    choose = math.lgamma(servers + 1)
    return math.fsum(
        math.exp(
            choose
            - math.lgamma(down + 1)
            - math.lgamma(servers - down + 1)
            + down * math.log(1 - up)
            + (servers - down) * math.log(up)
        )
        for down in range(servers - least + 1)
    )
