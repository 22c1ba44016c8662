"""Measuring: what is ranked, what is counted as right, and what an interrupted run gives."""

import multiprocessing
import os
import re
import shutil
import signal

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from dfvt_deploy import bench
from dfvt_deploy.artifact import file_record, open_artifact, update_manifest
from dfvt_deploy.benchmarking import offline, served
from dfvt_deploy.benchmarking.load_client import RIGHT, Answered
from dfvt_deploy.benchmarking.options import BenchOptions
from dfvt_deploy.benchmarking.results import median_interval, with_front
from dfvt_deploy.benchmarking.served import Window, is_stable
from dfvt_deploy.cli import app
from dfvt_deploy.errors import BadInput, ServerFailed
from dfvt_deploy.manifest import Verdict
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving.server import serve
from dfvt_deploy.types import Precision

from .fixtures import copy_of, json_document

NAME = "dfvt_t_classification"
QUICK = {"runtimes": ("onnxruntime",), "rounds": 2, "threads": (1,), "limit": 2}


def with_verdicts(folder, **verdicts):
    """The folder of a model, its manifest with a verdict on each file."""

    def change(manifest):
        found = {
            file: Verdict(
                verdict=word,
                file_sha256=manifest.files[file].sha256,
                created="",
                command="",
                dataset="d",
                images=1,
                metric="agreement",
                figures={},
                report="r.json",
            )
            for file, word in verdicts.items()
        }
        return manifest.model_copy(update={"verdicts": found})

    update_manifest(folder, change)
    return folder


@pytest.fixture(scope="module")
def server(repository):
    """A server of these tests alone: Triton 24.10 has died under load on an overloaded machine."""
    with serve(repository) as running:
        yield running


@pytest.fixture(scope="module")
def judged(int8_t, tmp_path_factory):
    """A model whose FP32 file passed and whose INT8 file failed."""
    folder = tmp_path_factory.mktemp("a b") / NAME
    shutil.copytree(int8_t.directory, folder)
    return with_verdicts(folder, **{"model.onnx": "passed", "model.int8.onnx": "failed"})


@pytest.fixture(scope="module")
def found(judged):
    return bench(judged, **QUICK)


def test_what_failed_its_gate_is_shown_and_never_recommended(found):
    fp32, int8 = found.offline
    assert (fp32.precision, int8.precision) == (Precision.FP32, Precision.INT8)
    assert (fp32.verdict, int8.verdict) == ("passed", "failed")
    fast = {"p50": median_interval([0.001])}
    planted = int8.model_copy(
        update={**fast, "images_per_second": 1e6, "memory_mb": 1.0, "loss": 0.0}
    )
    rows = with_front([fp32, planted])
    assert [row.front for row in rows] == [True, False]
    result = found.model_copy(update={"offline": tuple(rows)})
    assert result.best() == (rows[0], rows[0])
    unjudged = planted.model_copy(update={"verdict": "unvalidated"})
    assert found.model_copy(update={"offline": (unjudged,)}).best() is None


def test_figures_of_a_network_are_of_the_same_images_and_of_a_process_of_its_own(found):
    fp32, int8 = found.offline
    assert fp32.ratio.median == fp32.ratio.low == fp32.ratio.high == 1.0
    assert int8.ratio.low <= int8.ratio.median <= int8.ratio.high
    assert fp32.difference == 0.0 and 0 < int8.difference < 1
    assert 30 < fp32.memory_mb < 2000 and fp32.load_seconds > 0
    assert fp32.p50.low <= fp32.p50.median <= fp32.p99
    before, after = found.around_ms[NAME]
    assert before > 0 and after > 0


def test_a_float32_network_with_other_outputs_is_not_ranked(judged, monkeypatch, tmp_path):
    """The planted file answers otherwise than the baseline, which no verdict knows of."""
    pair = [[{"logits": np.array([[1.0, value]], np.float32)}] for value in (2.0, 3.0)]
    task = open_artifact(judged).manifest.task
    assert offline._difference(pair[0], pair[0], task, [{}]) == (0.0, True)
    gap, same = offline._difference(*pair, task, [{}])
    assert gap == 0.5 and not same


@pytest.fixture
def interruptible():
    """Ctrl-C's signal raises KeyboardInterrupt, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_after(calls):
    """A function that sends Ctrl-C's signal, as a terminal does to all processes of a command, at
    its call of this number."""
    count = iter(range(1, 10_000))

    def call(*_arguments):
        if next(count) == calls:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    return call


def test_ctrl_c_gives_the_rows_until_then_and_130(judged, monkeypatch, capfd, interruptible):
    class Bar:
        def __enter__(self):
            return interrupt_after(1)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(offline, "image_bar", lambda *_: Bar())
    words = ["bench", NAME, "--exports", str(judged.parent), "--runtime", "onnxruntime"]
    result = CliRunner().invoke(
        app, [*words, "--threads", "1", "--precision", "int8", "--rounds", "1000", "--json"]
    )
    assert result.exit_code == 130
    document = json_document("bench", result.stdout)
    assert document["interrupted"] and len(document["offline"]) == 2
    assert not multiprocessing.active_children() and "Traceback" not in capfd.readouterr().err


def test_two_files_and_two_saved_results_are_compared(judged, found, tmp_path):
    plain = tmp_path / "plain.onnx"
    shutil.copyfile(judged / "model.onnx", plain)
    options = BenchOptions(
        models=(str(judged / "model.onnx"), str(plain)), compare=True, rounds=1, threads=(1,)
    )
    first, second = bench(options).offline
    assert (first.verdict, second.verdict) == ("passed", "unvalidated")
    assert second.difference == 0.0  # the same images reached both

    slower = found.offline[1].model_copy(update={"p50": median_interval([1e6])})
    rows = (found.offline[0], slower)
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, result in zip(
        files, (found, found.model_copy(update={"offline": rows})), strict=True
    ):
        path.write_text(result.model_dump_json())
    options = BenchOptions(models=tuple(map(str, files)), compare=True)
    same, other = bench(options).offline
    assert same.ratio.median == 1.0 and other.ratio.low > 100
    files[0].write_text('{"rows": []}')
    with pytest.raises(BadInput, match="no result of bench"):
        bench(options)


def test_the_page_loads_nothing_and_the_table_fits_80_columns(judged, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    page = tmp_path / "page.html"
    words = ["bench", NAME, "--exports", str(judged.parent), "--runtime", "onnxruntime"]
    quick = ["--rounds", "1", "--threads", "1", "--limit", "1", "--html", str(page)]
    result = CliRunner().invoke(app, [*words, *quick])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines()[1:-2])) <= 80
    assert "onnxruntime int8" in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.startswith("next: dfvt-deploy populate") and "--precision fp32" in last
    text = page.read_text()
    assert "<polyline" in text and "http-equiv" in text
    assert not re.search(r'(src|href)="(?!data:)', text)


@pytest.fixture(scope="module")
def served_rows(judged, server):
    """What was found at the session's server, which serves the same weights, by protocol."""
    urls = {"grpc": server.grpc_url, "http": server.http_url}
    return {
        protocol: bench(
            judged, url=url, protocols=(protocol,), window=0.1, slo_ms=1e6, **load
        ).served[0]
        for (protocol, url), load in zip(
            urls.items(), ({"concurrency": (2,)}, {"rate": (20.0,)}), strict=True
        )
    }


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_every_served_answer_is_checked(served_rows, protocol):
    row = served_rows[protocol]
    assert row.right > 0 and row.wrong == row.failed == 0
    assert row.goodput == pytest.approx(row.images_per_second)
    assert row.bytes_sent > 1000 and row.bytes_received == pytest.approx(5 * 4 * 2, abs=400)
    assert set(row.programs) == {"client", "preprocess", "network", "postprocess"}
    assert row.programs["network"].compute is not None
    assert row.programs["client"].memory_mb > 0
    assert (row.concurrency, row.rate) == ((2, 0) if protocol == "grpc" else (0, 20))


def test_a_wrong_answer_is_counted_as_wrong_and_never_as_goodput(judged, server, tmp_path):
    """The export holds other weights than the server, so that every served answer is wrong."""
    folder = copy_of(open_artifact(judged), tmp_path)
    path = folder / "model.onnx"
    model = onnx.load(path)
    (bias,) = (w for w in model.graph.initializer if list(w.dims) == [1000])
    value = onnx.numpy_helper.to_array(bias) + np.linspace(0, 50, 1000, dtype=np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(value, bias.name))
    changed = tmp_path / "changed.onnx"
    onnx.save(model, changed)
    record = file_record(changed, Precision.FP32, "")
    update_manifest(
        folder,
        lambda m: m.model_copy(update={"files": {"model.onnx": record}}),
        {"model.onnx": changed},
    )
    with_verdicts(folder, **{"model.onnx": "passed"})
    found = bench(folder, url=server.grpc_url, window=0.05, concurrency=(1,))
    (row,) = found.served
    assert row.wrong > 0 and row.right == 0 and row.goodput == 0
    assert not row.front and found.best() is None


def test_an_answer_after_the_limit_of_time_is_no_goodput(judged, server):
    (row,) = bench(judged, url=server.grpc_url, window=0.05, concurrency=(1,), slo_ms=0.001).served
    assert row.right > 0 and row.goodput == 0


def test_ctrl_c_during_a_served_measurement_keeps_what_was_answered(
    judged, server, monkeypatch, interruptible
):
    """The signal comes in the first window, which would take an hour."""
    monkeypatch.setattr(served.time, "sleep", interrupt_after(1))
    found = bench(judged, url=server.grpc_url, window=3600, concurrency=(1, 8))
    (row,) = found.served
    assert found.interrupted and row.right > 0 and not row.stable


def test_a_started_server_tells_what_each_step_takes(judged, repository):
    options = {"serve": True, "repository": repository, "protocols": ("grpc",)}
    found = bench(judged, window=0.2, concurrency=(1,), **options)
    (row,) = found.served
    assert set(row.programs) == {"client", "server", "preprocess", "network", "postprocess"}
    assert all(each.memory_mb > 10 for each in row.programs.values())
    assert row.memory_mb > 100 and row.verdict == "passed" and row.front


def test_perf_analyzer_may_read_config_and_statistics(server):
    for protocol, url in (("grpc", server.grpc_url), ("http", server.http_url)):
        with TritonRunner(NAME, url, protocol) as runner:
            assert f"{NAME}_network" in runner.statistics()
            assert runner._client.get_model_config(NAME)


def test_a_server_that_stops_answering_is_an_error_and_no_row(monkeypatch):
    """Some requests were answered, none of the last three windows."""
    ends = iter(range(1, 100))
    requests = iter([[answered(RIGHT)], *([answered("busy")] for _ in range(9))])

    class Client:
        def receive(self):
            return []

        def received(self):
            return [next(requests)]

    monkeypatch.setattr(
        served, "_window", lambda before, *_: Window(1.0, float(next(ends)), [], {}, {})
    )
    windows = []
    with pytest.raises(ServerFailed, match="busy"):
        served._measure([Client()], {}, None, 0.0, windows)
    assert len(windows) == 5


def answered(outcome):
    return Answered(0.0, 1.0, outcome, 1, 1)


def window(seconds, *milliseconds):
    answers = [Answered(0.0, ms, RIGHT, 1, 1) for ms in milliseconds]
    return Window(seconds, 0.0, answers, {}, {})


def test_three_windows_in_a_row_must_agree_within_10_percent():
    same = window(1, 10, 10, 10)
    assert is_stable([window(1, 99), same, same, window(1, 10.9, 10.9, 10.9)])
    assert not is_stable([same, same])
    assert not is_stable([same, same, window(1, 11.2, 11.2, 11.2)])  # latency
    assert not is_stable([same, same, window(1.2, 10, 10, 10)])  # images a second
    assert not is_stable([same, same, window(1)])


def test_the_interval_of_a_median_is_of_the_values():
    found = median_interval([float(i) for i in range(1, 101)])
    assert (found.low, found.median, found.high) == (41.0, 50.5, 61.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compare": True, "models": ("a",)}, "takes two"),
        ({"serve": True, "url": "127.0.0.1:1"}, "give one of them"),
        ({"concurrency": (1,)}, "for a live server"),
        ({"serve": True, "rounds": 3}, "without a server"),
        ({"serve": True, "runtimes": ("pytorch",)}, "no backend"),
        ({"url": "127.0.0.1:1", "models": ("a",), "precisions": ("int8",)}, "the server's choice"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        BenchOptions(**options)
