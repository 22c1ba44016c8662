"""Networks timed without a server, in turn and in shuffled order.

Each candidate has a process of its own, so that its memory is its own and nothing of one runtime
is in another's way. Before each turn the machine rests: threads of onnxruntime and of OpenMP spin
for a while after a run, and would slow whatever is timed next.
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import product
from multiprocessing.connection import Connection
from statistics import median
from typing import NamedTuple

import numpy as np

from ..compare import comparison_of
from ..compare.agreement import checks, compare_tensors, total
from ..cores import usable_cores
from ..errors import StageFailed
from ..progress import image_bar
from ..runners import Runner, Tensors
from ..types import Precision, Task
from .candidates import Candidate
from .options import BenchOptions
from .processes import Worker, peak_memory_mb
from .results import Found, OfflineRow, median_interval, percentiles

#: Seconds of rest before each turn, and of the shortest turn.
_REST_S = 0.02
_TURN_S = 0.1


class Setting(NamedTuple):
    """What a candidate is run with; see `OfflineRow`."""

    batch: int
    threads: int
    streams: int


class Timed(NamedTuple):
    """A candidate with its process, and for each of its turns the milliseconds of each inference
    and the images a second of all streams."""

    candidate: Candidate
    worker: Worker
    load_seconds: float
    outputs: Sequence[Tensors]
    turns: list[tuple[list[float], float]]


def time_candidates(
    candidates: Sequence[Candidate],
    feeds: Mapping[Candidate, Sequence[Tensors]],
    options: BenchOptions,
    task: Task | None,
    found: Found,
) -> Sequence[Tensors]:
    """Time candidates under each setting, add their rows, and give the outputs of the first, which
    is the baseline. After Ctrl-C the rows hold what was measured until then.

    feeds: inputs of one image each, the same images for every candidate.
    task: how outputs are compared; by their largest difference without one.
    Raises StageFailed where the baseline cannot run.
    """
    threads = options.threads or (usable_cores(),)
    settings = [Setting(*each) for each in product(options.batch, threads, options.streams)]
    settings = [each for each in settings if each.streams <= each.threads]
    images, order = len(feeds[candidates[0]]), random.Random(0)
    outputs: Sequence[Tensors] = ()
    with image_bar("bench", len(settings) * options.rounds) as advance:
        for setting in settings:
            with ExitStack() as stack:
                timed = []
                for each in candidates:
                    worker = stack.enter_context(Worker(run_network, each, feeds[each], setting))
                    try:
                        load_seconds, answers = worker.receive()
                    except StageFailed as error:
                        if each is candidates[0]:
                            raise
                        found.left_out.append(f"{each.model}: {each.title}: {error}")
                    else:
                        timed.append(Timed(each, worker, load_seconds, answers, []))
                outputs = timed[0].outputs
                try:
                    for number in range(options.rounds):
                        for one in order.sample(timed, len(timed)):
                            time.sleep(_REST_S)
                            one.turns.append(one.worker.ask(number % images))
                        advance()
                finally:
                    found.offline += _rows(timed, setting, task, feeds[candidates[0]])
    return outputs


def run_network(
    connection: Connection, candidate: Candidate, feeds: Sequence[Tensors], setting: Setting
) -> None:
    """A candidate's process: answer every image once, then time each image whose number comes."""
    with ExitStack() as stack:
        start = time.perf_counter()
        runners = candidate.open(setting.threads, setting.streams, stack)
        seconds = time.perf_counter() - start
        pool = stack.enter_context(ThreadPoolExecutor(setting.streams))
        at_once = pool.map if setting.streams > 1 else map
        outputs = [runners[0].infer(feed) for feed in feeds]
        runners[0].infer(_batch(feeds[0], setting.batch))  # says now what it does not take
        connection.send((seconds, outputs))
        while True:
            feed = _batch(feeds[connection.recv()], setting.batch)
            list(at_once(partial(_timed_runs, feed, 0.0), runners))  # warm again
            start = time.perf_counter()
            times = list(at_once(partial(_timed_runs, feed, _TURN_S), runners))
            seconds = time.perf_counter() - start
            runs = [ms for each in times for ms in each]
            connection.send((runs, len(runs) * setting.batch / seconds))


def _batch(feed: Tensors, size: int) -> Tensors:
    """One image several times, as dense images of one batch must share a canvas."""
    return {name: np.repeat(value, size, axis=0) for name, value in feed.items()}


def _timed_runs(feed: Tensors, seconds: float, runner: Runner) -> list[float]:
    found: list[float] = []
    began = before = time.perf_counter()
    while not found or before - began < seconds:
        runner.infer(feed)
        now = time.perf_counter()
        found.append(1000 * (now - before))
        before = now
    return found


def _rows(
    timed: Sequence[Timed], setting: Setting, task: Task | None, feeds: Sequence[Tensors]
) -> Iterator[OfflineRow]:
    """The rows of the rounds that all candidates have finished."""
    rounds = min(len(each.turns) for each in timed)
    for each in timed if rounds else ():
        candidate, turns = each.candidate, each.turns[:rounds]
        pairs = zip(turns, timed[0].turns, strict=False)
        difference, same = _difference(timed[0].outputs, each.outputs, task, feeds)
        facts = {**vars(candidate), "file": candidate.file.name}
        if candidate.precision is Precision.FP32 and not same:
            facts["verdict"] = "differs"
        yield OfflineRow(
            **facts,
            **percentiles([ms for milliseconds, _ in turns for ms in milliseconds]),
            images_per_second=median(images_per_second for _, images_per_second in turns),
            memory_mb=peak_memory_mb([each.worker.pid]),
            ratio=median_interval([median(mine) / median(base) for (mine, _), (base, _) in pairs]),
            **setting._asdict(),
            load_seconds=each.load_seconds,
            difference=difference,
        )


def _difference(
    reference: Sequence[Tensors],
    candidate: Sequence[Tensors],
    task: Task | None,
    feeds: Sequence[Tensors],
) -> tuple[float | None, bool]:
    """The largest difference of two networks' outputs as a share of the largest value, None where
    it cannot be told, and whether they agree as far as two runtimes must in float32."""
    if task is None:  # outputs are paired in their order, as names differ
        pairs = [
            (a, b)
            for x, y in zip(reference, candidate, strict=True)
            for a, b in zip(x.values(), y.values(), strict=False)
        ]
        if any(a.shape != b.shape for a, b in pairs):
            return None, True
        return max(compare_tensors(a, b).max_rel for a, b in pairs), True
    comparison = comparison_of(task)
    images = zip(reference, candidate, feeds, strict=True)
    compared = (comparison.outputs(a, b, feed.get("image_sizes")) for a, b, feed in images)
    agreement = total(task, compared)
    gaps = [tensor.max_rel for tensor in agreement.tensors.values()]
    limits = comparison.limits[Precision.FP32]
    return max(gaps, default=None), all(c.passed for c in checks(agreement, limits))
