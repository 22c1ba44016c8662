"""What answers shards: worker processes of this machine, by themselves or in actors of Ray."""

import json
import logging
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from .. import __file__ as package
from ..cores import usable_cores
from ..errors import BadInput, StageFailed
from ..progress import spinner
from .options import BatchOptions
from .plan import Shard, ShardTables
from .worker import ERROR, INDEX, TABLES

#: How often a process may die at one image, and how often in a row before its first image.
MOST_DEATHS = 3

#: Shards that Ray Data is given at a time, for each worker. Their names are held in memory.
_SHARDS_AT_ONCE = 64

#: Memory for what is on its way between Ray's processes of this machine.
_OBJECT_STORE = 256 * 2**20

#: Without these, Ray on one machine listens on all addresses, runs what anyone sends, reports use.
_PRIVATE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}

Answerer: TypeAlias = Callable[[Shard], ShardTables]


def in_threads(
    answerers: Sequence[Answerer], shards: Iterator[Shard], stop: Callable[[], object]
) -> Iterator[ShardTables]:
    """Give each answerer its next shard when it is done with one; the first error is raised. No
    more shards are held than there are answerers. `stop` makes those raise that are at work."""
    running: dict[Future[ShardTables], Answerer] = {}
    free, done = list(answerers), set[Future[ShardTables]]()
    with ThreadPoolExecutor(len(answerers)) as pool:
        try:
            while free:
                given = zip(free, shards, strict=False)
                running |= {pool.submit(answer, shard): answer for answer, shard in given}
                yield from (future.result() for future in done)
                done = wait(running, return_when=FIRST_COMPLETED).done
                free = [running.pop(future) for future in done]
        finally:
            stop()


def answer_locally(options: BatchOptions, shards: Iterator[Shard]) -> Iterator[ShardTables]:
    """Answer shards in worker processes, in the order in which they are done."""
    count = options.workers or usable_cores()
    threads = max(1, usable_cores() // count)
    workers = [WorkerProcess(options, threads) for _ in range(count)]

    def stop() -> None:
        for worker in workers:
            worker.close()

    return in_threads([worker.answer for worker in workers], shards, stop)


class _Died(Exception):
    """A worker has ended. Its argument: the index of its image; None before the first."""


class WorkerProcess:
    """Answers shards in a process of its own, which is replaced when it dies. `answer` raises the
    error of a process that cannot work, such as for a model that is missing."""

    def __init__(self, options: BatchOptions, threads: int) -> None:
        self.settings = {**vars(options), "exports": options.exports.absolute(), "threads": threads}
        self.closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def answer(self, shard: Shard) -> ShardTables:
        deaths: Counter[int | None] = Counter()
        while True:
            try:
                return self._ask(shard)
            except _Died as death:
                (index,) = death.args
            process, self._process, self._connection = self._process, None, None
            if process is not None:
                process.kill()
            code = process.wait() if process is not None else 0
            if self.closed:
                raise StageFailed("the run was stopped")
            deaths[index] += 1
            if deaths[index] < MOST_DEATHS:
                continue
            ended = f"ended {MOST_DEATHS} times (exit code {code})"
            if index is None:
                raise StageFailed(
                    f"a worker {ended} before its first image; give fewer --workers if memory is "
                    "short, and run the same command to go on"
                )
            shard.refused[str(index)] = f"its process {ended} while it worked on it"

    def close(self) -> None:
        self.closed = True
        if process := self._process:
            process.kill()  # A thread that waits for it reads the end of the connection.
            process.wait()

    def _ask(self, shard: Shard) -> ShardTables:
        index = None
        try:
            connection = self._connection or self._start()
            connection.send_bytes(json.dumps(vars(shard)).encode())
            while (message := connection.recv_bytes())[:1] == INDEX:
                index = int(message[1:])
            if message[:1] == ERROR:
                code, text = json.loads(message[1:])
                raise (BadInput if code == BadInput.exit_code else StageFailed)(text)
            assert message == TABLES, message
            results, failures = connection.recv_bytes(), connection.recv_bytes()
        except (EOFError, OSError):
            raise _Died(index) from None
        return ShardTables(shard.number, len(shard.names), results, failures)

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        path = [str(Path(package).parent.parent), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker", str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the parent.
        )
        theirs.close()
        self._connection = ours
        ours.send_bytes(json.dumps(self.settings, default=str).encode())
        if self.closed:
            raise EOFError
        return ours


class ShardActor:
    """Answers a shard a call in an actor. The actor itself survives images that end processes."""

    def __init__(self, options: BatchOptions) -> None:
        self.worker = WorkerProcess(options, threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        tables = self.worker.answer(Shard(**json.loads(batch["shard"][0])))
        return {name: [value] for name, value in vars(tables).items()}


def answer_on_ray(options: BatchOptions, shards: Iterator[Shard]) -> Iterator[ShardTables]:
    """Answer shards in actors of Ray Data, in the order in which they are done. Ray replaces a
    killed actor and does its shard again. Raises StageFailed without a cluster, or if Ray fails."""
    with _cluster(options) as ray:
        ray.data.DataContext.get_current().enable_progress_bars = False
        workers = options.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        while some := list(islice(shards, workers * _SHARDS_AT_ONCE)):
            items = [{"shard": json.dumps(vars(shard))} for shard in some]
            answers = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                ShardActor,
                fn_constructor_args=(options,),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
                num_cpus=0.5,  # Whole ones would leave none for the cluster's other tasks.
            )
            try:
                for row in answers.iter_rows():
                    yield ShardTables(**row)
            except ray.exceptions.RayError as error:
                *_, last = filter(None, str(error).splitlines())
                raise StageFailed(f"Ray: {last}; the same command goes on from here") from error


@contextmanager
def _cluster(options: BatchOptions) -> Iterator[Any]:
    """Ray, connected to the cluster at an address, or to one that is started here and ended."""
    arguments: dict[str, Any] = {"address": options.address, "log_to_driver": False}
    if options.address is None:
        os.environ.update(_PRIVATE, RAY_AUTH_TOKEN=secrets.token_hex(32))
        arguments |= {"address": "local", "num_cpus": options.workers, "include_dashboard": False}
        arguments |= {"object_store_memory": _OBJECT_STORE}
    import ray
    import ray.data

    with spinner(f"Ray: {'starting' if options.address is None else 'connecting'}"):
        try:
            ray.init(logging_level=logging.ERROR, **arguments)
        except Exception as error:  # ConnectionError, RuntimeError, ValueError, and Ray's own
            raise StageFailed(
                f"Ray {options.address or 'of this machine'}: {error}; a cluster that wants a "
                "token takes it from RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token"
            ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):  # where Ray tells of processes that died
            yield ray
    finally:
        ray.shutdown()
