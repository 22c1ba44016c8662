"""The process that asks a server and checks each answer, apart from the one that measures."""

import hashlib
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from ..compare import comparison_of
from ..compare.agreement import checks
from ..errors import DfvtError
from ..runners import Tensors
from ..runners.triton import TritonRunner
from ..serving.client import payload
from ..types import Precision, Task, TritonProtocol

#: Seconds between two messages to the measuring process.
FLUSH_S = 0.05

#: Seconds that a client waits after a request that failed.
_AFTER_FAILURE_S = 0.1

RIGHT, WRONG = "right", "wrong"


@dataclass(frozen=True)
class ClientPlan:
    """What one client process does.

    expected: the answers of the offline pipeline to `images`, one by one.
    precision: that of the served network, whose limits the answers must keep.
    requests: how many may be under way at a time.
    rate: requests a second, or 0 for each as soon as one was answered.
    number: which of the client processes it is.
    """

    model: str
    url: str
    protocol: TritonProtocol
    task: Task
    precision: Precision
    images: Sequence[bytes]
    expected: Sequence[Tensors]
    requests: int = 1
    rate: float = 0.0
    number: int = 0


class Answered(NamedTuple):
    """One request.

    done: seconds of the monotonic clock, which all processes share.
    milliseconds: since it was sent; with a rate since it was due, even if it had to wait for a
        client, so that a slow server cannot hide its delay.
    outcome: `right`, `wrong`, or the message of the error in place of an answer.
    sent, received: bytes of the tensors.
    """

    done: float
    milliseconds: float
    outcome: str
    sent: int
    received: int


def run_client(connection: Connection, plan: ClientPlan) -> None:
    """Ask until a message comes or the other end is closed; send lists of `Answered`."""
    client = _Client(plan)
    with ThreadPoolExecutor(plan.requests) as pool:
        threads = [pool.submit(client.ask) for _ in range(plan.requests)]
        try:
            while not connection.poll(FLUSH_S):
                answered = client.answered
                connection.send([answered.popleft() for _ in range(len(answered))])
                for thread in threads:
                    if thread.done():
                        thread.result()  # raises what ended it
        finally:
            client.stop.set()


class _Client:
    """What the threads of a client process share."""

    def __init__(self, plan: ClientPlan) -> None:
        self.plan = plan
        self.stop = threading.Event()
        self.answered: deque[Answered] = deque()
        self._comparison = comparison_of(plan.task)
        self._limits = self._comparison.answer_limits[plan.precision]
        self._known: dict[tuple[int, bytes], bool] = {}
        self._lock, self._random = threading.Lock(), random.Random(plan.number)
        self._number, self._due = plan.number, time.monotonic()

    def ask(self) -> None:
        """Ask one request after the other until `stop` is set."""
        plan = self.plan
        with TritonRunner(plan.model, plan.url, plan.protocol) as runner:
            while True:
                number, due = self._following()
                if self.stop.wait(max(0.0, due - time.monotonic())):
                    return
                index = number % len(plan.images)
                image, received = plan.images[index], 0
                try:
                    answers = runner.infer({"image": np.array([[image]], dtype=np.object_)})
                    done = time.monotonic()
                    outcome = RIGHT if self._is_right(index, answers) else WRONG
                    received = sum(map(payload, answers.values()))
                except DfvtError as error:
                    done, outcome = time.monotonic(), str(error)
                    self.stop.wait(_AFTER_FAILURE_S)
                milliseconds = 1000 * (done - due)
                self.answered.append(Answered(done, milliseconds, outcome, len(image), received))

    def _following(self) -> tuple[int, float]:
        """The number of the next request, and when it is due."""
        with self._lock:
            self._number += 1
            if not self.plan.rate:
                return self._number, time.monotonic()
            self._due += self._random.expovariate(self.plan.rate)
            return self._number, self._due

    def _is_right(self, index: int, answers: Tensors) -> bool:
        """Compare answers with those expected; equal answers are compared once."""
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(answers.items()):
            texts = value.reshape(-1) if value.dtype == np.object_ else [value.tobytes()]
            digest.update(f"{name} {value.shape} {list(map(len, texts))} ".encode())
            digest.update(b"".join(texts))
        key = index, digest.digest()
        if key not in self._known:
            agreement = self._comparison.answers(self.plan.expected[index], answers)
            self._known[key] = all(check.passed for check in checks(agreement, self._limits))
        return self._known[key]
