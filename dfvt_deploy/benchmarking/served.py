"""A live Triton server under load, from client processes that check every answer.

A measurement ends when three successive windows agree within 10 % in images a second and in mean
latency, which is perf_analyzer's rule, or after 10 windows, as not stable.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..artifact import Artifact
from ..cores import usable_cores
from ..errors import DfvtError, ServerFailed
from ..evaluate.live_server import answer_options_at, served_file
from ..evaluate.options import ValidateOptions
from ..names import STEPS
from ..pipeline import Pipeline
from ..progress import spinner
from ..runners import Tensors
from ..runners.triton import TritonRunner
from ..serving.layout import live_version, read_version
from ..serving.process import children_of, model_of
from ..serving.repository import populate
from ..serving.server import serve
from ..types import Precision, TritonProtocol
from .candidates import Candidate, candidate_of, candidates_of
from .load_client import FLUSH_S, RIGHT, WRONG, Answered, ClientPlan, run_client
from .options import BenchOptions, Runtime
from .processes import Worker, cpu_seconds, peak_memory_mb
from .results import Found, Program, ServedRow, percentiles

_MOST_WINDOWS = 10
_SUCCESSIVE = 3
_SPREAD = 1.1

#: Seconds that a window goes on without an answer.
_MOST_WAIT_S = 60

#: Requests that may wait for an answer when they arrive at a rate.
_MOST_WAITING = 64


class Target(NamedTuple):
    """A running server: its network, `host:port` by protocol, and the id of a process of ours."""

    candidate: Candidate
    urls: Mapping[TritonProtocol, str]
    pid: int | None = None


class Window(NamedTuple):
    """One measurement: its length and end, the requests that ended in it, and what was counted
    until its end: CPU seconds by program, and Triton's statistics."""

    seconds: float
    end: float
    requests: list[Answered]
    cpu: dict[str, float]
    statistics: dict[str, dict[str, float]]

    @property
    def answers(self) -> list[Answered]:
        """Those that were answered, right or wrong."""
        return [each for each in self.requests if each.outcome in (RIGHT, WRONG)]


def measure_served(
    artifact: Artifact, options: BenchOptions, images: Sequence[bytes], found: Found
) -> None:
    """Measure each server under each load and add the rows; after Ctrl-C those measured until then.
    Raises ServerFailed where the server at --url, or of --repository, does not run or answer."""
    for server in _targets(artifact, options):
        try:
            with server as target:
                measure_target(artifact, target, options, images, found.served, {})
        except DfvtError as error:
            if options.url or options.repository:
                raise
            found.left_out.append(f"{artifact.manifest.name}: {error}")


def _targets(artifact: Artifact, options: BenchOptions) -> list[AbstractContextManager[Target]]:
    """The servers, each started when its context is entered."""
    if options.url:
        return [_at_url(artifact, options)]
    if options.repository:
        return [_of_repository(artifact, options.repository)]
    found = [c for c in candidates_of(artifact, options.runtimes, options.precisions) if c.servable]
    if options.fast_decode:
        found += [candidate_of(artifact, c.runtime, c.precision, True) for c in found]
    return [populated(artifact, each) for each in found]


@contextmanager
def _at_url(artifact: Artifact, options: BenchOptions) -> Iterator[Target]:
    protocol = next(iter(options.protocols), TritonProtocol.GRPC)
    asked = {name: getattr(options, name) for name in ("url", "served", "fast_decode")}
    served = served_file(artifact, _asked(artifact, **asked))
    assert served is not None and options.url is not None
    openvino = served.precision is Precision.BF16 or ".openvino." in served.file
    runtime = Runtime.OPENVINO if openvino else Runtime.ONNXRUNTIME
    candidate = candidate_of(artifact, runtime, served.precision, served.fast_decode)
    yield Target(candidate, {protocol: options.url})


def _asked(artifact: Artifact, **fields: Any) -> ValidateOptions:
    return ValidateOptions(
        model=artifact.manifest.name, exports=artifact.directory.parent, **fields
    )


@contextmanager
def populated(artifact: Artifact, candidate: Candidate, **settings: Any) -> Iterator[Target]:
    """A server of the candidate alone, with more settings of `populate`; DfvtError for no start."""
    with tempfile.TemporaryDirectory(prefix="dfvt_bench_") as folder:
        repository = Path(folder) / "model_repository"
        settings |= {"backend": candidate.runtime, "precision": candidate.precision}
        settings["fast_decode"] = candidate.fast_decode
        populate(artifact.directory, repository=repository, **settings)
        with _of_repository(artifact, repository) as target:
            yield target


@contextmanager
def _of_repository(artifact: Artifact, repository: Path) -> Iterator[Target]:
    served_file(artifact, _asked(artifact, serve=True, repository=repository))  # it is this export
    name = artifact.manifest.name
    record = read_version(repository, name, live_version(repository, name))
    form = Runtime(record.backend), record.precision, record.fast_decode
    candidate = candidate_of(artifact, *form)
    with serve(repository) as server:
        urls = {TritonProtocol.GRPC: server.grpc_url, TritonProtocol.HTTP: server.http_url}
        yield Target(candidate, urls, server.pid)


def measure_target(
    artifact: Artifact,
    target: Target,
    options: BenchOptions,
    images: Sequence[bytes],
    rows: list[ServedRow],
    expected: dict[Candidate, list[Tensors]],
) -> None:
    """Add a row for each load of the options, after Ctrl-C of what was answered until then.
    `expected` keeps the right answers for another server of the same candidate."""
    name, task, candidate = artifact.manifest.name, artifact.manifest.task, target.candidate
    if candidate not in expected:
        expected[candidate] = _expected(artifact, target, images)
    right = expected[candidate]
    for protocol in options.protocols or target.urls:
        plan = ClientPlan(
            name, target.urls[protocol], protocol, task, candidate.precision, images, right
        )
        for load in options.loads:
            windows: list[Window] = []
            text = f"{candidate.title} {protocol} {load[0] or f'{load[1]:g}/s'}"
            with spinner(f"{name}: {text}"), ExitStack() as stack:
                plans = _plans(plan, *load)
                clients = [stack.enter_context(Worker(run_client, each)) for each in plans]
                programs = _programs(name, target, clients)
                server = stack.enter_context(TritonRunner(name, target.urls[protocol], protocol))
                try:
                    _measure(clients, programs, server, options.window, windows)
                finally:
                    if any(window.answers for window in windows[-_SUCCESSIVE:]):
                        rows.append(_row(candidate, protocol, load, windows, programs, options))


def _expected(artifact: Artifact, target: Target, images: Sequence[bytes]) -> list[Tensors]:
    """The offline pipeline's answers, from the runtime and the precision that are served."""
    protocol, url = next(iter(target.urls.items()))
    answer_options = answer_options_at(artifact, url, protocol)
    pipeline = Pipeline(artifact.manifest, answer_options, target.candidate.fast_decode)
    with ExitStack() as stack:
        (runner,) = target.candidate.open(usable_cores(), 1, stack)
        prepared = [pipeline.read(data) for data in images]
        return [pipeline.postprocess(each, runner.infer(pipeline.feed(each))) for each in prepared]


def _plans(plan: ClientPlan, concurrency: int, rate: float) -> list[ClientPlan]:
    """One for each client process: as many as there are cores, or requests under way."""
    requests = concurrency or _MOST_WAITING
    count = min(requests, usable_cores())
    return [
        replace(plan, requests=len(range(i, requests, count)), rate=rate / count, number=i)
        for i in range(count)
    ]


def _programs(name: str, target: Target, clients: Sequence[Worker]) -> dict[str, list[int]]:
    """The process ids of the clients and, of a server started here, of Triton and each step."""
    found = {"client": [client.pid for client in clients]}
    if target.pid is None:
        return found
    found["server"] = [target.pid]
    for pid in children_of(target.pid):
        folders = model_of(pid).split("/")
        for step in STEPS:
            if f"{name}_{step}" in folders:
                found.setdefault(step, []).append(pid)
    return found


def _measure(
    clients: Sequence[Worker],
    programs: Mapping[str, Sequence[int]],
    server: TritonRunner,
    seconds: float,
    windows: list[Window],
) -> None:
    """Add windows until three agree; the first of the list holds only the counts at the start, and
    after Ctrl-C the last is shorter."""
    for client in clients:
        client.receive()  # its process has started
    waiting: list[Answered] = []

    def add_window() -> None:
        while True:  # a window without an answer goes on until there is one
            window = _window(windows[-1].end, programs, server)
            time.sleep(3 * FLUSH_S)  # what ended in the window has been sent by then
            waiting.extend(a for client in clients for batch in client.received() for a in batch)
            window.requests.extend(each for each in waiting if each.done < window.end)
            if window.requests or window.seconds > _MOST_WAIT_S:
                break
        waiting[:] = [each for each in waiting if each.done >= window.end]
        windows.append(window)

    windows.append(_window(0.0, programs, server))
    while len(windows) <= _MOST_WINDOWS and not is_stable(windows[1:]):
        try:
            time.sleep(max(0.0, windows[-1].end + seconds - time.monotonic()))
        except KeyboardInterrupt:
            add_window()
            raise
        add_window()
        if not windows[-1].requests:
            raise ServerFailed(f"no request was answered within {_MOST_WAIT_S} s")
        last = windows[-_SUCCESSIVE:]
        if len(windows) > _SUCCESSIVE and not any(window.answers for window in last):
            raise ServerFailed(f"no request is answered: {windows[-1].requests[0].outcome}")


def _window(before: float, programs: Mapping[str, Sequence[int]], server: TritonRunner) -> Window:
    try:
        statistics = server.statistics()
    except DfvtError:  # closed to others, as on an address that is not the loopback one
        statistics = {}
    cpu = {name: cpu_seconds(pids) for name, pids in programs.items()}
    end = time.monotonic()
    return Window(end - before, end, [], cpu, statistics)


def is_stable(windows: Sequence[Window]) -> bool:
    """Whether the last three agree within 10 % in images a second and in mean latency."""
    last = windows[-_SUCCESSIVE:]
    if len(last) < _SUCCESSIVE or not all(window.answers for window in last):
        return False
    rates = [len(window.answers) / window.seconds for window in last]
    means = [sum(a.milliseconds for a in w.answers) / len(w.answers) for w in last]
    return all(max(values) <= _SPREAD * min(values) for values in (rates, means))


def _row(
    candidate: Candidate,
    protocol: str,
    load: tuple[int, float],
    windows: Sequence[Window],
    programs: Mapping[str, Sequence[int]],
    options: BenchOptions,
) -> ServedRow:
    """The figures of the last three windows."""
    last = windows[1:][-_SUCCESSIVE:]
    start, end = windows[-len(last) - 1], windows[-1]
    seconds = sum(window.seconds for window in last)
    requests = [each for window in last for each in window.requests]
    answers = [each for window in last for each in window.answers]
    right = [each for each in answers if each.outcome == RIGHT]
    good = [a for a in right if options.slo_ms is None or a.milliseconds <= options.slo_ms]
    rates = [len(window.answers) / window.seconds for window in last]
    served = [pid for name, pids in programs.items() if name != "client" for pid in pids]
    return ServedRow(
        **{**vars(candidate), "file": candidate.file.name},
        **percentiles([each.milliseconds for each in answers]),
        images_per_second=len(answers) / seconds,
        memory_mb=peak_memory_mb(served) if served else None,
        protocol=protocol,
        concurrency=load[0],
        rate=load[1],
        seconds=seconds,
        stable=is_stable(windows[1:]),
        windows=(min(rates), max(rates)),
        right=len(right),
        wrong=len(answers) - len(right),
        failed=len(requests) - len(answers),
        goodput=len(good) / seconds,
        bytes_sent=sum(each.sent for each in answers) / len(answers),
        bytes_received=sum(each.received for each in answers) / len(answers),
        programs={
            name: _program(candidate.model, name, start, end, programs.get(name, ()), len(answers))
            for name in dict.fromkeys([*programs, *STEPS])
        },
    )


def _program(
    model: str, name: str, start: Window, end: Window, pids: Sequence[int], answers: int
) -> Program:
    times: dict[str, Any] = {}
    usage: dict[str, Any] = {}
    if after := end.statistics.get(f"{model}_{name}"):
        before = start.statistics.get(f"{model}_{name}", {})
        delta = {key: value - before.get(key, 0.0) for key, value in after.items()}
        requests = delta.pop("requests") or 1.0
        times = {key: 1000 * seconds / requests for key, seconds in delta.items()}
    if pids:
        cpu = end.cpu[name] - start.cpu[name]
        usage["cores"], usage["cpu_ms"] = cpu / (end.end - start.end), 1000 * cpu / answers
        usage["memory_mb"], usage["processes"] = peak_memory_mb(pids), len(pids)
    return Program(**times, **usage)
