"""`--engine triton`: each thread has one request on its way, so that no server is flooded."""

import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, ServerFailed, StageFailed
from ..runners.triton import DEFAULT_URLS, ServerBusy, TritonRunner, UnknownModel
from ..serving.tasks import served_task, task_of
from ..types import Task, TritonProtocol
from .engines import in_threads
from .images import read_images
from .options import BatchOptions
from .plan import Shard, ShardRows, ShardTables, columns

#: How often an image may make requests fail while others are answered.
MOST_FAILURES = 3

#: Seconds between two tries: the first pause, which doubles, and the longest.
_PAUSE, _LONGEST_PAUSE = 0.05, 5.0

#: Seconds without any answer after which a run stops.
PATIENCE = 300.0


def _urls(options: BatchOptions) -> tuple[str, ...]:
    return options.url or (DEFAULT_URLS[TritonProtocol.GRPC],)


def served_model_task(options: BatchOptions) -> Task:
    """The task of the model on the first server that answers, by the names of its answers. Raises
    BadInput where that has no such model, or a step of one, ServerFailed where none answers."""
    for url in _urls(options):
        try:
            with TritonRunner(options.model, url) as runner:
                outputs = runner.output_shapes()
        except ServerFailed as error:
            failure = error
            continue
        if task := task_of(outputs):
            return task
        raise BadInput(f"{options.model} answers {', '.join(outputs)}; name a whole model")
    raise failure


def answer_on_triton(options: BatchOptions, shards: Iterator[Shard]) -> Iterator[ShardTables]:
    """Answer shards on one or more servers, in the order in which they are done. Raises
    ServerFailed where no image was answered for `PATIENCE` seconds."""
    urls, run = _urls(options), _Run(options)
    with ExitStack() as stack:
        threads = []
        for i in range(options.in_flight * len(urls)):
            first = i % len(urls)
            order = (*urls[first:], *urls[:first])
            runners = [stack.enter_context(TritonRunner(options.model, url)) for url in order]
            threads.append(partial(run.answer, runners))
        yield from in_threads(threads, shards, run.stopped.set)


class _Run:
    """What all threads know. `answered`: how many images were; `at`: when the last one was. Each
    sends one image after the other to the first of its runners, to the next where that fails."""

    def __init__(self, options: BatchOptions) -> None:
        self.options, self.task = options, served_model_task(options)
        self.outputs = [answer.name for answer in columns(self.task)]
        self.outputs += filter(None, [served_task(self.task).row_count])
        self.answered, self.at = 0, time.monotonic()
        self.stopped = threading.Event()

    def answer(self, runners: list[TritonRunner], shard: Shard) -> ShardTables:
        rows, servers = ShardRows(shard, self.task), deque(runners)
        images = read_images(shard.names, self.options.column, self.options.max_bytes)
        for index, image in enumerate(images, shard.first):
            try:
                if isinstance(image, BadInput):
                    raise image
                rows.answer(index, self._answers(image, servers))
            except BadInput as error:
                rows.fail(index, error)
        return rows.tables()

    def _answers(self, image: bytes, servers: deque[TritonRunner]) -> dict[str, NDArray[Any]]:
        """Ask until a server answers, which is the first of `servers` then. Raises BadInput where
        one refuses the image, or it fails again and again while others are answered."""
        feed = {"image": np.array([[image]], dtype=np.object_)}
        failures, pause, seen = 0, _PAUSE, self.answered
        while not self.stopped.is_set():
            for _ in range(len(servers)):
                try:
                    answers = servers[0].infer(feed, self.outputs)
                except (ServerFailed, UnknownModel) as error:
                    failure = error
                    servers.rotate(-1)
                else:
                    self.answered, self.at = self.answered + 1, time.monotonic()
                    return answers
            if not isinstance(failure, ServerBusy):
                failures += self.answered > seen
                seen = self.answered
            if failures >= MOST_FAILURES:
                raise BadInput(f"{failure} ({failures} times, while other images were answered)")
            if time.monotonic() - self.at > PATIENCE:
                raise ServerFailed(
                    f"no image was answered for {PATIENCE:g} s: {failure}; start the server "
                    "again, and the same command goes on from here"
                )
            self.stopped.wait(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise StageFailed("the run was stopped")
