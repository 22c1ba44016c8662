"""Tuning: what the search finds, what is never measured, and what `populate` does with it."""

import itertools
import math
import random
import shutil
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from dfvt_deploy import populate, tune
from dfvt_deploy.artifact import file_record, open_artifact, update_manifest
from dfvt_deploy.cli import app
from dfvt_deploy.errors import BadInput, GateFailed, ServerFailed
from dfvt_deploy.serving import repository as repository_module
from dfvt_deploy.serving.config import from_text
from dfvt_deploy.serving.layout import read_version
from dfvt_deploy.tuning import tune as tuning
from dfvt_deploy.tuning.search import Point, grid_of, search
from dfvt_deploy.types import Precision

from .fixtures import json_document
from .test_bench import NAME, with_verdicts

#: Milliseconds of the forms on one core, and how well each uses further threads.
FORMS = {"fp32": (20.0, 0.8), "int8": (13.0, 0.6), "bf16": (11.0, 0.9), "fp16": (25.0, 0.8)}


def throughput_cost(cores, decode_ms, delay_us, waste):
    """Milliseconds of a server for an image: its network, its decoders and its cores bound it.

    decode_ms: time of decoding; delay_us: the best wait for a batch; waste: what threads beyond the
    cores cost.
    """

    def cost(form, point):
        ms, scaling = FORMS[form]
        speed_up = point.threads**scaling
        network = point.instances * speed_up / ms
        decoding = point.preprocess_instances / decode_ms
        work = ms * point.threads / speed_up + decode_ms
        running = point.instances * point.threads + point.preprocess_instances
        over = max(0.0, running / cores - 1)
        bounds = (network, decoding, cores / work)
        rate = sum(bound**-4 for bound in bounds) ** -0.25 / (1 + waste * over)
        return (1 + abs(point.queue_delay_us - delay_us) / 20_000) / rate

    return cost


def latency_cost(cores, decode_ms, _delay_us, waste):
    """Milliseconds of one request alone."""

    def cost(form, point):
        ms, scaling = FORMS[form]
        idle = point.instances * point.threads + point.preprocess_instances - cores
        return decode_ms + ms / point.threads**scaling + waste * max(0, idle)

    return cost


@pytest.mark.parametrize(("cores", "usual"), [(2, 2), (4, 1), (6, 2), (7, 2), (16, 1), (64, 2)])
@pytest.mark.parametrize("kind", [throughput_cost, latency_cost])
def test_a_fifth_of_the_grid_comes_within_5_percent_of_its_best(cores, usual, kind):
    grid = grid_of(cores, 8 if kind is throughput_cost else 1, usual)
    assert grid[0] == Point(usual, cores, 2, 0) and len(set(grid)) == len(grid)
    most = max(8, len(grid) * len(FORMS) // 5)
    for surface in itertools.product((2.0, 8.0, 25.0), (0, 1000, 4000), (0.02, 0.3, 1.0)):
        cost = kind(cores, *surface)
        known = search(list(FORMS), grid, cost, lambda count: count < most)
        least = min(cost(form, point) for form in FORMS for point in grid)
        assert len(known) <= most
        assert min(known.values()) <= 1.05 * least, surface


def test_noise_and_what_does_not_start_do_not_mislead_the_search():
    noise, grid = random.Random(0), grid_of(4, 8, 1)
    true = throughput_cost(4, 5.0, 1000, 0.3)

    def cost(form, point):
        return math.inf if form == "bf16" else true(form, point) * noise.uniform(0.98, 1.02)

    known = search(list(FORMS), grid, cost, lambda count: count < len(grid) * len(FORMS) // 5)
    allowed = [form for form in FORMS if form != "bf16"]
    least = min(true(form, point) for form in allowed for point in grid)
    assert true(*min(known, key=known.get)) <= 1.07 * least


@pytest.fixture(scope="module")
def judged(int8_t, tmp_path_factory):
    """FP32 without a verdict, an INT8 file that failed its gate, and a damaged FP16 file that is
    said to have passed."""
    folder = tmp_path_factory.mktemp("tuned") / NAME
    shutil.copytree(int8_t.directory, folder)
    damaged = folder.parent / "damaged.onnx"
    damaged.write_bytes(b"no ONNX")
    record = file_record(damaged, Precision.FP16, "")

    def change(manifest):
        return manifest.model_copy(update={"files": {**manifest.files, "model.fp16.onnx": record}})

    update_manifest(folder, change, {"model.fp16.onnx": damaged})
    return with_verdicts(folder, **{"model.int8.onnx": "failed", "model.fp16.onnx": "passed"})


def hasten(patch, tmp_path_factory):
    """One setting, which is not the default, short windows, and a cache of these tests alone."""
    patch.setenv("DFVT_DEPLOY_CACHE", str(tmp_path_factory.getbasetemp() / "tune_cache"))
    patch.setattr(tuning, "grid_of", lambda *_: [Point(1, 1, 1, 0)])
    patch.setattr(tuning, "_LONG", 0.05)


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory):
    hasten(monkeypatch, tmp_path_factory)


@pytest.fixture(scope="module")
def found(judged, tmp_path_factory):
    """What one run on real servers found."""
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch, tmp_path_factory)
        return tune(judged, goal="throughput", concurrency=2)


def no_server(monkeypatch):
    @contextmanager
    def populated(*_arguments, **_settings):
        raise ServerFailed("no server in this test")
        yield

    monkeypatch.setattr(tuning, "populated", populated)


def test_only_what_passed_is_measured_and_what_does_not_start_has_its_reason(judged, found):
    best, damaged = found.rows
    assert found.chosen == best and best.final and best.verdict == "unvalidated"
    assert (best.settings["backend"], best.settings["precision"]) == ("onnxruntime", "fp32")
    assert best.figures["p50_ms"] > 0 and best.figures["memory_mb"] > 100
    assert damaged.settings["precision"] == "fp16" and not damaged.figures
    assert "Triton could not load" in damaged.problem
    assert open_artifact(judged).manifest.tuned == found


def test_a_further_run_goes_on_from_what_was_measured(judged, found, monkeypatch):
    no_server(monkeypatch)
    again = tune(judged, goal="throughput", concurrency=2)
    assert again.chosen == found.chosen
    assert again.rows[1].problem == "no server in this test"  # a failure is not kept
    assert tune(judged, goal="throughput", concurrency=3).chosen is None  # another load


def test_the_command_prints_the_best_and_the_next_command(judged, found, monkeypatch):
    no_server(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    exports = ["--exports", str(judged.parent)]
    words = ["tune", NAME, *exports, "--goal", "throughput", "--concurrency", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "│ * │ onnxruntime fp32" in done.stdout and "int8" not in done.stdout
    assert max(map(len, done.stdout.splitlines()[1:-2])) <= 80
    assert done.stdout.splitlines()[-1].startswith(f"next: dfvt-deploy populate {NAME}")
    assert "left out: onnxruntime int8, as model.int8.onnx is failed; judge it: " in done.stderr
    document = json_document("tune", CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert document["chosen"]["figures"] == found.chosen.figures
    late = CliRunner().invoke(app, [*words, "--p99-ms", "0.001"])
    assert late.exit_code == 3 and "with a p99 up to 0.001 ms" in late.stderr
    unknown = CliRunner().invoke(
        app, ["tune", "dfvt_t_classificaton", *exports, "--goal", "latency"]
    )
    assert unknown.exit_code == 2 and f"it holds {NAME}" in unknown.stderr


def network_config(repository):
    return from_text((repository / f"{NAME}_network" / "config.pbtxt").read_text())


def test_populate_takes_the_settings_and_says_so(judged, found, tmp_path, capfd):
    populate(judged, repository=tmp_path / "r", top_k=3)
    assert "gets the settings that `tune` found for throughput" in capfd.readouterr().err
    config = network_config(tmp_path / "r")
    assert config.instance_group[0].count == 1
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert "--instances 1" in read_version(tmp_path / "r", NAME, 1).command
    populate(judged, repository=tmp_path / "r", instances=3)
    assert "tune" not in capfd.readouterr().err
    assert network_config(tmp_path / "r").instance_group[0].count == 3


def test_populate_says_why_settings_do_not_hold(judged, found, tmp_path, capfd, monkeypatch):
    def warning():
        populate(judged, repository=tmp_path / "r")
        assert network_config(tmp_path / "r").instance_group[0].count == 2  # the default
        return capfd.readouterr().err

    with monkeypatch.context() as patch:
        patch.setattr(repository_module, "usable_cores", lambda: 4096)
        message = warning()
        assert f"are for {found.cores} cores of {found.machine}, and here are 4096" in message
        assert f"tune again: dfvt-deploy tune {NAME}" in message
    planted = found.chosen.model_copy(
        update={
            "settings": {**found.chosen.settings, "precision": "int8"},
            "file": "model.int8.onnx",
        }
    )
    tuned = found.model_copy(update={"chosen": planted})
    update_manifest(judged, lambda m: m.model_copy(update={"tuned": tuned}))
    assert "are for model.int8.onnx, which is failed now" in warning()
    update_manifest(judged, lambda m: m.model_copy(update={"tuned": found}))


def test_ctrl_c_keeps_what_was_measured_and_leaves_the_manifest(judged, found, monkeypatch):
    calls = iter(range(10))

    @contextmanager
    def populated(*_arguments, **_settings):
        if next(calls):
            raise KeyboardInterrupt
        raise ServerFailed("no server in this test")
        yield

    monkeypatch.setattr(tuning, "populated", populated)
    ended = tune(judged, goal="latency")
    assert ended.interrupted and len(ended.rows) == 1
    assert open_artifact(judged).manifest.tuned == found


def test_nothing_is_tuned_where_model_onnx_failed_its_gate(judged, tmp_path):
    folder = tmp_path / NAME
    shutil.copytree(judged, folder)
    with_verdicts(folder, **{"model.onnx": "failed"})
    with pytest.raises(GateFailed, match="mend it and run: dfvt-deploy validate"):
        tune(folder, goal="latency")
    with pytest.raises(BadInput, match="--goal 'speed' is none of latency, throughput"):
        tune(folder, goal="speed")
