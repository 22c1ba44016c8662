"""One server under load, event by event: queues, batches and shared processors."""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .figures import Figures, Step

#: The share of requests at the beginning that only fill the queues and are not counted.
_WARM_UP = 0.1


@dataclass(frozen=True)
class Load:
    """How a server did under a load.

    seconds: from arrival to answer of each counted request; infinite where it was refused.
    busy: share of its processors that worked, by device.
    """

    seconds: npt.NDArray[np.float64]
    busy: dict[str, float]

    def percentile(self, q: float) -> float:
        """Seconds; infinite where so many were refused."""
        return float(np.percentile(self.seconds, q, method="higher"))


@dataclass
class _Device:
    """Processors that executions share: all are slower alike where several are busy, and slower
    still where there are too few. `clock` is the time that passed for an execution."""

    processors: int
    together: float = 1.0
    now: float = 0.0
    clock: float = 0.0
    demand: float = 0.0
    worked: float = 0.0
    #: Executions: when they end on the clock, a number, the place of their step, their requests.
    running: list[tuple[float, int, int, list[int]]] = field(default_factory=list)

    @property
    def speed(self) -> float:
        others = min(self.demand, self.processors) - 1
        if others <= 0:
            return 1.0 / max(1.0, self.demand)
        slowed = 1 - (1 - self.together) * others / (self.processors - 1)
        return slowed * min(1.0, self.processors / self.demand)

    def advance(self, now: float) -> None:
        self.worked += (now - self.now) * min(self.demand, self.processors)
        self.clock += (now - self.now) * self.speed
        self.now = now

    def next_end(self) -> float:
        if not self.running:
            return float("inf")
        return self.now + max(0.0, self.running[0][0] - self.clock) / self.speed


class _Queue:
    """The requests that wait for a step, and the times that its executions may take."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.free = step.instances or 2**62
        self.waiting: deque[int] = deque()
        self._times = {size: sorted(some) for size, some in sorted(step.milliseconds.items())}

    def seconds(self, batch: int, share: float) -> float:
        """The time that so large a share of the batches does not exceed."""
        if batch in self._times:
            return self._times[batch][int(share * len(self._times[batch]))] / 1000
        at = [some[int(share * len(some))] for some in self._times.values()]
        return float(np.interp(batch, list(self._times), at)) / 1000


def simulate(figures: Figures, arrivals: npt.NDArray[np.float64], seed: int = 0) -> Load:
    """Send requests of one image to one server. `arrivals` (n,) are the seconds at which they come,
    ascending; `seed` is that of the times that are drawn."""
    devices = {"cpu": _Device(figures.cores, figures.together)}
    if figures.gpus:
        devices["gpu"] = _Device(figures.gpus)
    queues = [_Queue(step) for step in figures.steps]
    # Drawn for the request, so that little changes where the arrivals change little.
    shares = np.random.default_rng(seed).random((len(queues), len(arrivals))).tolist()
    answered = np.full(len(arrivals), np.inf)
    numbers = itertools.count()
    now = 0.0

    def arrive(request: int, place: int) -> None:
        if place == len(queues):
            answered[request] = now
            return
        queue = queues[place]
        if queue.free or len(queue.waiting) < (queue.step.queue_size or 2**62):
            queue.waiting.append(request)
            start(place)

    def start(place: int) -> None:
        queue = queues[place]
        device = devices[queue.step.device]
        while queue.waiting and queue.free:
            size = min(len(queue.waiting), max(queue.step.milliseconds))
            requests = [queue.waiting.popleft() for _ in range(size)]
            ends = device.clock + queue.seconds(len(requests), shares[place][requests[0]])
            heapq.heappush(device.running, (ends, next(numbers), place, requests))
            device.demand += queue.step.busy
            queue.free -= 1

    coming = 0
    while True:
        device = min(devices.values(), key=_Device.next_end)
        arrival = float(arrivals[coming]) if coming < len(arrivals) else float("inf")
        now = min(device.next_end(), arrival)
        if now == float("inf"):
            break
        for each in devices.values():
            each.advance(now)
        if arrival == now:
            arrive(coming, 0)
            coming += 1
            continue
        _, _, place, requests = heapq.heappop(device.running)
        device.demand -= queues[place].step.busy
        queues[place].free += 1
        for request in requests:
            arrive(request, place + 1)
        start(place)
    busy = {k: d.worked / d.now / d.processors for k, d in devices.items()}
    return Load((answered - arrivals)[int(len(arrivals) * _WARM_UP) :], busy)
