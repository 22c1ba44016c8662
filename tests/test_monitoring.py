"""Dashboard, alert rules and the autoscaler's metric, compared with a server under load.

One server goes through good requests, refused ones, a flood, a step that hangs, one that is killed,
and its end, while a real Prometheus scrapes it, where one is installed.
"""

import contextlib
import ctypes
import gzip
import http.server
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import promql_parser
import pytest
import tritonclient.grpc as triton
import yaml
from tritonclient.utils import InferenceServerException

from dfvt_deploy.errors import BadInput
from dfvt_deploy.serving.options import ServeOptions
from dfvt_deploy.serving.process import children_of
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import TritonServer, serve
from dfvt_deploy.tasks.images import REASONS

from .fixtures import encoded, photograph
from .test_commands import ROOT

NAME = "dfvt_t_classification"
STEPS = [f"{NAME}_{step}" for step in ("preprocess", "network", "postprocess")]
MONITORING = ROOT / "deploy" / "monitoring"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL), reason="Prometheus is not installed (apt install prometheus)"
)
#: Alerts whose cause the server of this test gets. The others, of a machine without memory, have
#: theirs in alerts_test.yaml.
UNDER_LOAD = ("DfvtRequestsFail", "DfvtImagesRefused", "DfvtQueueTimeouts")
HANGING = ("DfvtStalled", "DfvtQueueLong", "DfvtSlow")
ENDED = ("DfvtStepBroken", "DfvtServerDown", "DfvtNoServer")
#: What rates look at in this test, of which the generated files have minutes.
WINDOW = "8s"

_specification = importlib.util.spec_from_file_location("generate", MONITORING / "generate.py")
generate = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(generate)
SOURCE = generate.read()

PANELS = {
    f"{panel['title']}: {legend}": generate.expression(query, SOURCE, WINDOW)
    for panel in SOURCE["dashboard"]
    for legend, query in panel["queries"].items()
}
ALERTS = {
    rule["alert"]: rule["expr"]
    for rule in generate.alerts(SOURCE, WINDOW, "0s")["groups"][0]["rules"]
}
SCALING = (
    SOURCE["autoscaling"]["query"]
    .replace("<<.GroupBy>>", "job")
    .replace("<<.LabelMatchers>>", f'job="{generate.JOB}"')
    .replace("[2m]", f"[{WINDOW}]")
)
EXPRESSIONS = {**PANELS, **ALERTS, "autoscaling": SCALING}


def _selectors(expression: str) -> list[promql_parser.VectorSelector]:
    found: list = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    return [node for node in found if isinstance(node, promql_parser.VectorSelector)]


def _fits(matcher, value: str) -> bool:
    equal = matcher.op in (promql_parser.MatchOp.Equal, promql_parser.MatchOp.NotEqual)
    same = value == matcher.value if equal else bool(re.fullmatch(matcher.value, value))
    positive = matcher.op in (promql_parser.MatchOp.Equal, promql_parser.MatchOp.Re)
    return same == positive


def _series(scrape: str) -> list[tuple[str, dict[str, str]]]:
    """Name and labels of each line of Prometheus' text format."""
    lines = re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", scrape, re.M)
    return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels))) for name, labels in lines]


@dataclass
class Watched:
    """What was seen of the server: metrics and panels while it was well, and everything after."""

    scrape: str = ""
    log: str = ""
    panels: dict[str, list] = field(default_factory=dict)
    fired: set[str] = field(default_factory=set)
    rounds: int = 0
    spans: list[dict] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    untraced: str = ""


@contextlib.contextmanager
def _collector(watched: Watched) -> Iterator[str]:
    """The address of an OpenTelemetry collector that keeps what it gets."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in json.loads(body)["resourceSpans"]:
                watched.services |= {
                    entry["value"]["stringValue"]
                    for entry in resource["resource"]["attributes"]
                    if entry["key"] == "service.name"
                }
                for scope in resource["scopeSpans"]:
                    watched.spans += scope["spans"]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/traces"
        finally:
            server.shutdown()
            thread.join()


class Prometheus:
    """A Prometheus that scrapes one address twice a second and evaluates the generated rules."""

    def __init__(self, folder: Path, target: str) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        rules = generate.alerts(SOURCE, WINDOW, "0s")
        (folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
        self._configure(target)
        self.command = [
            PROMETHEUS,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
        ]
        self.log = folder / "prometheus.log"

    def __enter__(self) -> "Prometheus":
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        return self

    def __exit__(self, *_error) -> None:
        self.process.terminate()
        self.process.wait(20)

    def _configure(self, *targets: str) -> None:
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(self.folder / "alerts.yaml")],
            "scrape_configs": [
                {"job_name": generate.JOB, "static_configs": [{"targets": list(targets)}]}
            ],
        }
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))

    def forget(self) -> None:
        """Scrape nothing any more, as after a mistake in the configuration."""
        self._configure()
        self.process.send_signal(signal.SIGHUP)

    def wait_for(self, expression: str) -> None:
        """Until an expression has a value; for a minute, as the tests tell what is missing."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.query(expression):
                    return
            time.sleep(0.2)

    def wait_for_alerts(self, *names: str, cause: Callable[[], None] | None = None) -> None:
        """Until all have fired, each on its own; for two minutes, with their cause again and again.

        A rate needs a rise between two scrapes of its window, which one round may not have.
        """
        deadline = time.monotonic() + 120
        while not set(names) <= self.fired() and time.monotonic() < deadline:
            if cause:
                cause()
            time.sleep(0.5)

    def get(self, what: str, **parameters: str) -> dict:
        query = urllib.parse.urlencode(parameters)
        url = f"http://{self.address}/api/v1/{what}?{query}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[float]:
        """The values of an expression now."""
        return [float(found["value"][1]) for found in self.get("query", query=expression)["result"]]

    def fired(self) -> set[str]:
        start = str(time.time() - 600)
        series = self.get("series", **{"match[]": 'ALERTS{alertstate="firing"}', "start": start})
        return {labels["alertname"] for labels in series}


def _ask(server: TritonServer, images: list[bytes], timeout: float | None = None) -> None:
    """Send images one after the other, whatever becomes of them."""
    with triton.InferenceServerClient(server.grpc_url) as client:
        for number, image in enumerate(images):
            tensor = triton.InferInput("image", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[image]], np.object_))
            limit = {"timeout": round(timeout * 1e6)} if timeout else {}
            with contextlib.suppress(InferenceServerException):
                client.infer(NAME, [tensor], request_id=f"asked-{number}", **limit)


def _ask_at_once(server: TritonServer, *images: list[bytes], timeout: float | None = None) -> None:
    with ThreadPoolExecutor(len(images)) as pool:
        list(pool.map(lambda some: _ask(server, some, timeout), images))


def _processes(server: TritonServer, step: str) -> list[int]:
    """The processes of a Python step."""
    return [
        pid for pid in children_of(server.pid) if step in Path(f"/proc/{pid}/cmdline").read_text()
    ]


@contextlib.contextmanager
def _hanging(pid: int) -> Iterator[None]:
    """A process whose main thread, which computes, does not go on within the block.

    Its other threads do, so that Triton finds it healthy; one that is stopped whole is given up.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    seize, interrupt, detach = 0x4206, 0x4207, 17
    if libc.ptrace(seize, pid, None, None) or libc.ptrace(interrupt, pid, None, None):
        raise OSError(ctypes.get_errno(), "no process may be traced here")
    os.waitpid(pid, 0x40000000)  # __WALL, as it is no child
    try:
        yield
    finally:
        libc.ptrace(detach, pid, None, None)


def _hang(server: TritonServer, image: bytes, prometheus: Prometheus) -> None:
    """A network that hangs with requests before it, until the alerts of it have fired."""

    def hang() -> None:
        (network,) = _processes(server, STEPS[1])
        with ThreadPoolExecutor(3) as pool, _hanging(network):
            for _ in range(3):
                pool.submit(_ask, server, [image])
            prometheus.wait_for(_firing("DfvtStalled"))
        for name in HANGING[1:]:  # they count what was answered
            prometheus.wait_for(_firing(name))

    prometheus.wait_for_alerts(*HANGING, cause=hang)


def _firing(name: str) -> str:
    return f'ALERTS{{alertstate="firing",alertname="{name}"}}'


@pytest.fixture(scope="module")
def watched(artifact_t, tmp_path_factory) -> Watched:
    folder = tmp_path_factory.mktemp("watched")
    populate(artifact_t.directory, repository=folder / "models", queue_size=4, instances=1)
    good, bad = encoded(photograph(120, 90)), b"not an image, SECRET"
    watched = Watched()
    with contextlib.ExitStack() as opened:
        url = opened.enter_context(_collector(watched))
        server = serve(
            folder / "models", trace_url=url, trace_every=10, log_file=folder / "triton.log"
        )
        with server:
            prometheus = None
            if PROMETHEUS:
                target = f"127.0.0.1:{server.ports.metrics}"
                prometheus = opened.enter_context(Prometheus(folder, target))
                prometheus.wait_for("up")

            def load() -> None:
                watched.rounds += 1
                _ask_at_once(server, *[[good, bad, good] * 3] * 2)
                _ask_at_once(server, *[[good]] * 24)  # more than may wait
                _ask_at_once(server, *[[good]] * 4, timeout=0.0005)

            for _ in range(4):  # over several scrapes
                load()
                time.sleep(0.5)
            if prometheus:
                prometheus.wait_for_alerts(*UNDER_LOAD, cause=load)
            with urllib.request.urlopen(server.metrics_url) as answer:
                watched.scrape = answer.read().decode()
            if prometheus:
                watched.panels = {k: prometheus.query(query) for k, query in EXPRESSIONS.items()}
                try:
                    _hang(server, good, prometheus)
                except PermissionError as error:
                    watched.untraced = str(error)
                for pid in _processes(server, STEPS[1]):
                    os.kill(pid, signal.SIGKILL)
                prometheus.wait_for_alerts("DfvtStepBroken", cause=lambda: _ask(server, [good]))
        if prometheus:
            prometheus.wait_for_alerts("DfvtServerDown")
            prometheus.forget()
            prometheus.wait_for_alerts("DfvtNoServer")
            watched.fired = prometheus.fired()
    watched.log = (folder / "triton.log").read_text()
    return watched


def test_the_generated_files_are_those_of_the_list():
    for path, text in generate.generated().items():
        assert path.read_text() == text, f"run: python {MONITORING / 'generate.py'}"


def test_expressions_use_the_metrics_of_the_list_and_their_labels():
    used = set()
    for expression in EXPRESSIONS.values():
        for selector in _selectors(expression):
            used.add(selector.name)
            labels = {matcher.name for matcher in selector.matchers.matchers}
            listed = SOURCE["metrics"][selector.name]["labels"]
            assert labels <= {*listed, *SOURCE["target_labels"]}, expression
            assert "job" in labels, expression
    assert used == SOURCE["metrics"].keys()


def test_a_scrape_has_every_metric_with_its_labels(watched):
    series = _series(watched.scrape)
    for name, metric in SOURCE["metrics"].items():
        if not metric.keys() & {"gpu", "prometheus"}:
            found = [sorted(labels) for other, labels in series if other == name]
            assert found, name
            assert all(labels == sorted(metric["labels"]) for labels in found), name


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_what_an_expression_selects_is_in_the_scrape(watched, name):
    series = _series(watched.scrape)
    for selector in _selectors(EXPRESSIONS[name]):
        if SOURCE["metrics"][selector.name].keys() & {"gpu", "prometheus"}:
            continue
        matchers = [
            matcher
            for matcher in selector.matchers.matchers
            if matcher.name not in SOURCE["target_labels"]
        ]
        assert any(
            other == selector.name and all(_fits(m, labels.get(m.name, "")) for m in matchers)
            for other, labels in series
        ), selector.prettify()


def test_each_step_has_its_counts_and_quantiles(watched):
    """What the alerts rest on: how Triton counts refusals and failures."""
    values = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in watched.scrape.splitlines()
        if line.startswith(("nv_", "dfvt_"))
    }
    answered = values[f'nv_inference_request_success{{model="{NAME}",version="1"}}']
    failed = values[f'nv_inference_request_failure{{model="{NAME}",reason="OTHER",version="1"}}']
    labels = f'model="{STEPS[0]}",version="1"'
    refused = values[
        f'dfvt_refused_requests_total{{model="{STEPS[0]}",reason="format",version="1"}}'
    ]
    assert refused == watched.rounds * 2 * 3
    asked = watched.rounds * (2 * 9 + 24 + 4)
    assert answered + failed / 2 == asked
    assert failed / 2 > refused  # the flood's are among them
    preprocessed = values[f"nv_inference_request_success{{{labels}}}"]
    assert values[f"dfvt_step_duration_seconds_count{{{labels}}}"] == preprocessed
    for model in (NAME, *STEPS):
        quantile = f'nv_inference_request_summary_us{{model="{model}",version="1",quantile="0.99"}}'
        assert values[quantile] > 0


@needs_prometheus
@pytest.mark.parametrize("name", [*PANELS, "autoscaling"])
def test_every_panel_has_data(watched, name):
    if any(SOURCE["metrics"][s.name].get("gpu") for s in _selectors(EXPRESSIONS[name])):
        pytest.skip("needs a GPU")
    values = watched.panels[name]
    assert values
    assert all(np.isfinite(values))


@needs_prometheus
def test_alerts_fire_for_what_happened_to_the_server(watched):
    assert {*UNDER_LOAD, *ENDED} <= watched.fired
    assert "DfvtGpuMemoryShort" not in watched.fired


@needs_prometheus
def test_alerts_fire_for_a_step_that_hangs(watched):
    if watched.untraced:
        pytest.skip(watched.untraced)
    assert set(HANGING) <= watched.fired


@needs_prometheus
def test_every_alert_fires_for_its_cause_alone():
    tests = (MONITORING / "alerts_test.yaml").read_text()
    assert all(f'"{name}"' in tests for name in ALERTS)
    for words in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run([PROMTOOL, *words], cwd=MONITORING, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_refusals_are_logged_without_anything_of_the_image(watched):
    lines = [json.loads(line) for line in watched.log.splitlines() if line.startswith("{")]
    assert lines
    for line in lines:
        assert line["event"] == "refused"
        assert (line["model"], line["version"]) == (STEPS[0], "1")
        assert line["reason"] in REASONS
        assert line["image_bytes"] == [20]
        assert line["request_id"].startswith("asked-")
    unwritten = sum(line["unwritten_before"] for line in lines)
    assert len(lines) + unwritten <= watched.rounds * 2 * 3
    assert "SECRET" not in watched.log
    assert b"not an im".hex(" ") not in watched.log


def test_traces_reach_the_collector(watched):
    assert watched.services == {"dfvt-deploy"}
    names = {span["name"] for span in watched.spans}
    assert {NAME, *STEPS} <= names
    requests = [span for span in watched.spans if span["name"] == NAME]
    assert 2 * watched.rounds <= len(requests) <= 10 * watched.rounds  # one in ten


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(BadInput, match=r"localhost:4317 must begin with http"):
        ServeOptions(trace_url="localhost:4317")
