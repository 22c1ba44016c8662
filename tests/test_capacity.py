"""`plan`: the simulation against queueing theory and a measured server, and what it adds up to."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from dfvt_deploy import plan
from dfvt_deploy.benchmarking.results import Bench, Interval, Program, ServedRow
from dfvt_deploy.capacity import planning
from dfvt_deploy.capacity.figures import Figures, read_figures
from dfvt_deploy.capacity.planning import largest_rate, servers_needed
from dfvt_deploy.capacity.simulation import simulate
from dfvt_deploy.cli import app
from dfvt_deploy.errors import BadInput

from .fixtures import json_document
from .test_commands import ROOT

#: What benchmarks/capacity.py measured, see docs/capacity.md.
MEASURED = ROOT / "docs" / "results" / "capacity.json"
#: 1000 times of which each is as likely, exponential with a mean of 10 ms.
EXPONENTIAL = tuple((-10 * np.log(1 - (np.arange(1000) + 0.5) / 1000)).tolist())


def server(*steps, cores=8, **fields):
    return Figures.model_validate(
        {"model": "m", "machine": "test", "cores": cores, "steps": steps, **fields}
    )


def step(*milliseconds, name="network", **fields):
    return {"name": name, "milliseconds": {1: milliseconds}, **fields}


def poisson(rate, count=30_000):
    return np.cumsum(np.random.default_rng(5).exponential(1 / rate, count))


@pytest.mark.parametrize(
    ("figures", "mean"),
    [
        # M/M/1, M/D/1, and M/M/2 by Erlang's formula, at a load of 0.7
        (server(step(*EXPONENTIAL, instances=1)), 10 / 0.3),
        (server(step(10, instances=1)), 10 + 10 * 0.7 / (2 * 0.3)),
        (server(step(*[2 * ms for ms in EXPONENTIAL], instances=2)), 20 / (1 - 0.7**2)),
        # a shared core: the mean does not depend on how the times spread
        (server(step(*EXPONENTIAL), cores=1), 10 / 0.3),
        (server(step(10), cores=1), 10 / 0.3),
        # what leaves a shared processor comes at random again
        (server(step(10), step(10, device="gpu", name="b"), cores=1, gpus=1), 2 * 10 / 0.3),
    ],
)
def test_waiting_is_that_of_queueing_theory(figures, mean):
    load = simulate(figures, poisson(70))
    assert load.seconds.mean() * 1000 == pytest.approx(mean, rel=0.06)


def test_a_processor_is_busy_for_what_it_does():
    figures = server(step(10), step(5, device="gpu", busy=2, name="b"), cores=2, gpus=4)
    load = simulate(figures, poisson(50))
    assert load.busy["cpu"] == pytest.approx(0.5 / 2, rel=0.03)
    assert load.busy["gpu"] == pytest.approx(0.5 / 4, rel=0.03)


def test_what_waits_becomes_one_batch():
    figures = server({**step(10, instances=1), "milliseconds": {1: [10], 3: [18]}})
    seconds = simulate(figures, np.full(5, 1.0)).seconds * 1000
    # One alone, three at once of the four that wait, and the last one.
    np.testing.assert_allclose(seconds, [10, 28, 28, 28, 38])


def test_executions_slow_each_other_where_cores_are_few_or_share():
    at_once = np.ones(2)
    for cores, together, expected in ((2, 1.0, 10), (1, 1.0, 20), (2, 0.8, 12.5)):
        load = simulate(server(step(10), cores=cores, together=together), at_once)
        np.testing.assert_allclose(load.seconds * 1000, [expected] * 2)


def test_a_full_queue_refuses():
    load = simulate(server(step(10, instances=1, queue_size=2)), np.ones(5))
    np.testing.assert_allclose(load.seconds * 1000, [10, 20, 30, np.inf, np.inf])


def test_the_simulation_predicts_what_was_measured():
    document = json.loads(MEASURED.read_text())
    figures = Figures.model_validate(document["figures"])
    assert len(document["loads"]) >= 3
    for load in document["loads"]:
        random = np.random.default_rng(load["seed"])
        due = np.cumsum(random.exponential(1 / load["rate"], load["requests"]))
        p99 = simulate(figures, due).percentile(99) * 1000
        assert p99 == pytest.approx(load["p99_ms"], rel=0.2)


def test_one_server_takes_its_largest_rate_and_no_more():
    figures = server(step(10, instances=1))
    # M/D/1 with a p99 of 50 ms
    rate = largest_rate(figures, 0.05)
    assert simulate(figures, poisson(0.97 * rate)).percentile(99) < 0.05
    assert simulate(figures, poisson(1.05 * rate)).percentile(99) > 0.05


def test_a_server_that_cannot_keep_up_is_found_out_whatever_the_limit():
    assert 95 < largest_rate(server(step(10, instances=1)), 3) <= 102


@pytest.mark.parametrize(("least", "up", "wanted"), [(1, 0.9, 0.99), (5, 0.99, 0.999), (7, 1, 1)])
def test_servers_that_may_be_down_are_added(least, up, wanted):
    def share(servers):
        return sum(
            math.comb(servers, n) * up**n * (1 - up) ** (servers - n)
            for n in range(least, servers + 1)
        )

    found = servers_needed(least, up, wanted)
    assert share(found) >= wanted - 1e-12
    assert found == least or share(found - 1) < wanted


@pytest.fixture
def figures_file(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_REQUESTS", 3000)
    path = tmp_path / "figures of one server.json"
    path.write_text(server(step(10, instances=1)).model_dump_json())
    return path


def test_plan_adds_up(figures_file):
    found = plan(figures_file, rate=1000, p99_ms=50, price=0.5)
    assert found.least == math.ceil(1000 / found.server_rate)
    assert found.servers > found.least
    assert found.cores == 8 * found.servers
    assert found.p99_ms <= 51
    assert found.per_hour == 0.5 * found.servers
    assert found.per_million == pytest.approx(found.per_hour / 3.6)


def test_the_command_prints_a_plan_and_the_next_step(figures_file):
    words = ["plan", str(figures_file), "--rate", "300", "--p99-ms", "50", "--price", "1"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    document = json_document("plan", CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert f"--set replicas={document['servers']}" in shown.stdout.splitlines()[-1]
    assert f"{document['per_hour']:.2f} an hour" in shown.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cores": 0}, "cores: Input should be greater"),
        ({"steps": []}, "steps"),
        ({"steps": [step(1, device="gpu")]}, "gpus is 0"),
        ({"steps": [{"name": "a", "milliseconds": {2: [1]}}]}, "no times of one image"),
        ({"steps": [step(1, busy=0)]}, "no rate is too much"),
        ({"speed": 1}, "speed: Extra inputs"),
    ],
)
def test_figures_that_cannot_be_are_refused(figures_file, change, message):
    document = json.loads(figures_file.read_text())
    figures_file.write_text(json.dumps({**document, **change}))
    with pytest.raises(BadInput, match=message):
        read_figures(figures_file)


def test_a_limit_that_one_image_alone_exceeds_is_refused(figures_file):
    done = CliRunner().invoke(app, ["plan", str(figures_file), "--rate", "1", "--p99-ms", "9"])
    assert done.exit_code == 2
    assert "one image alone is 10.0 ms" in done.output


def served(concurrency, rate, p50, **fields):
    one = {"processes": 1, "input": 1, "compute": 8, "output": 1, "cpu_ms": 15}
    decoder = {"processes": 2, "input": 0, "compute": 4, "output": 1, "cpu_ms": 5}
    programs = {"server": {"processes": 1, "cpu_ms": 1}, "client": {"processes": 2, "cpu_ms": 9}}
    programs |= {"preprocess": decoder, "network": one, "postprocess": {**decoder, "processes": 1}}
    row = {
        "model": "m",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "file": "model.onnx",
        "verdict": "reference",
        "p50": Interval(median=p50, low=p50, high=p50),
        "p90": p50 + 1,
        "p95": p50 + 2,
        "p99": p50 + 5,
        "images_per_second": rate,
        "protocol": "grpc",
        "concurrency": concurrency,
        "rate": 0,
        "seconds": 9,
        "stable": True,
        "windows": (rate, rate),
        "right": 99,
        "wrong": 0,
        "failed": 0,
        "goodput": rate,
        "bytes_sent": 1,
        "bytes_received": 1,
        "programs": {name: Program(**each) for name, each in programs.items()},
    }
    return ServedRow.model_validate({**row, **fields})


def bench_file(path, *rows):
    hardware = {"system": "Linux", "cores": "4"}
    found = Bench(created="", command="", hardware=hardware, versions={}, images=1, served=rows)
    path.write_text(found.model_dump_json())
    return path


def test_a_plan_from_what_bench_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_REQUESTS", 3000)
    rows = served(1, 40, 22), served(8, 100, 80), served(16, 90, 160)
    other = [served(c, 300, 9, runtime="openvino", verdict="failed") for c in (1, 8)]
    path = bench_file(tmp_path / "bench.json", *rows, *other)
    figures = read_figures(path)
    request, preprocess, network, postprocess = figures.steps
    assert np.median(request.milliseconds[1]) == 2
    assert max(request.milliseconds[1]) == 7
    assert (preprocess.milliseconds[1], preprocess.busy) == ((5,), 1)
    assert (network.milliseconds[1], network.busy, network.instances) == ((10,), 1.5, 1)
    assert (preprocess.instances, postprocess.instances) == (2, 1)
    # 26 ms of processors an image and 100 images a second keep 2.6 of 4 cores busy.
    assert figures.cores == 4
    assert figures.together == pytest.approx(2.6 / 4, rel=0.01)
    assert "fp32 over grpc" in figures.model
    assert plan(path, rate=1000, p99_ms=80).servers >= 10


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((served(1, 40, 22),), "at a concurrency of 1 and of more"),
        ((served(1, 40, 22, programs={}), served(8, 99, 80)), "served here"),
        ((served(1, 40, 22, wrong=1), served(8, 99, 80, wrong=1)), "passed its gate"),
        ((served(1, 40, 22), served(8, 99, 80, model="n")), "figures of m, n"),
    ],
)
def test_what_bench_printed_that_is_not_enough_is_refused(tmp_path, rows, message):
    with pytest.raises(BadInput, match=message):
        read_figures(bench_file(tmp_path / "bench.json", *rows))
