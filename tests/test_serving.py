"""A real Triton server: answers, refusals, starting, stopping and dying."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dfvt_deploy.errors import ArtifactError, BadInput, ServerFailed
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving import drawing, server_log
from dfvt_deploy.serving.client import predict
from dfvt_deploy.serving.docker import docker_command
from dfvt_deploy.serving.repository import PopulateOptions, populate
from dfvt_deploy.serving.server import Ports, serve
from dfvt_deploy.tasks import classification
from dfvt_deploy.tasks.images import ImageLimits, decode_image

from .fixtures import encoded, photograph
from .test_preprocessing import MODES, damaged

NAME = "dfvt_t_classification"
PROTOCOLS = ["http", "grpc"]
SIZES = [(640, 480), (97, 301), (224, 224), (1200, 900), (5, 5)]


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [encoded(photograph(*size, seed=i)) for i, size in enumerate(SIZES)] + [
        make(photograph(300, 260)) for make in MODES.values()
    ]


@pytest.fixture(scope="module")
def offline(artifact_t, images) -> list[dict]:
    """What the same image gives without a server."""
    answers = []
    with OnnxRuntimeRunner(artifact_t.onnx_path()) as runner:
        for data in images:
            outputs = runner.infer(classification.network_inputs([decode_image(data)]))
            answers.append(classification.answers(outputs, artifact_t.manifest.labels))
    return answers


def _runner(server, protocol, model=NAME) -> TritonRunner:
    return TritonRunner(model, getattr(server, f"{protocol}_url"), protocol)


def _bytes(*images: bytes) -> dict:
    return {"image": np.array(images, dtype=np.object_).reshape(-1, 1)}


def _equal(found: dict, expected: dict) -> None:
    assert np.array_equal(found["class_ids"], expected["class_ids"])
    assert np.array_equal(found["labels"], expected["labels"])
    assert np.abs(found["scores"] - expected["scores"]).max() < 1e-6
    assert found["class_ids"].dtype == np.int32
    assert found["scores"].dtype == np.float32


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_equal_the_offline_pipeline(server, images, offline, protocol):
    with _runner(server, protocol) as runner:
        for data, expected in zip(images, offline, strict=True):
            _equal(runner.infer(_bytes(data)), expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_batch_answers_each_image(server, images, offline, protocol):
    with _runner(server, protocol) as runner:
        found = runner.infer(_bytes(*images))
    for i, expected in enumerate(offline):
        _equal({name: value[i : i + 1] for name, value in found.items()}, expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", damaged())
def test_bad_images_are_refused_with_the_reason(server, protocol, kind):
    with (
        _runner(server, protocol) as runner,
        pytest.raises(BadInput, match=r"refused the request: .*image"),
    ):
        runner.infer(_bytes(damaged()[kind]))


def test_the_bad_image_of_a_batch_is_numbered(server, images):
    with (
        _runner(server, "grpc") as runner,
        pytest.raises(BadInput, match="image 2 of 3: image is not one of JPEG, PNG, WEBP"),
    ):
        runner.infer(_bytes(images[0], b"bad", images[1]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bad_requests_among_many_fail_alone(server, images, offline, protocol):
    bad = list(damaged().values())

    def ask(i: int) -> None:
        with _runner(server, protocol) as runner:
            for j in range(i, i + 20):
                if j % 5 == 0:
                    with pytest.raises(BadInput):
                        runner.infer(_bytes(bad[j % len(bad)]))
                else:
                    _equal(runner.infer(_bytes(images[j % 5])), offline[j % 5])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_network_serves_tensors_directly(server, artifact_t, protocol):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    with _runner(server, protocol, f"{NAME}_network") as runner:
        found = runner.infer({"images": pixels})["logits"]
    with OnnxRuntimeRunner(artifact_t.onnx_path()) as runner:
        assert np.abs(runner.infer({"images": pixels})["logits"] - found).max() < 1e-4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_wrong_requests_are_the_callers(server, protocol):
    with _runner(server, protocol, "nonsense") as runner, pytest.raises(BadInput, match="no model"):
        runner.infer(_bytes(b"x"))
    with _runner(server, protocol) as runner, pytest.raises(BadInput, match="refused"):
        runner.infer({"image": np.zeros((1, 1), np.float32)})
    with _runner(server, protocol) as runner, pytest.raises(BadInput, match="refused"):
        runner.infer(_bytes(*[b"x"] * 65))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nobody_there_is_a_server_error(protocol):
    with (
        TritonRunner(NAME, "127.0.0.1:9", protocol) as runner,
        pytest.raises(ServerFailed, match=r"no Triton answers .* dfvt-deploy serve"),
    ):
        runner.infer(_bytes(b"x"))
    with pytest.raises(BadInput, match="must be host:port"):
        TritonRunner(NAME, "http://localhost:8000", protocol).__enter__()


def test_predict_reads_files_and_draws(server, images, tmp_path, offline):
    (tmp_path / "a.jpg").write_bytes(images[0])
    (answer,) = predict([tmp_path / "a.jpg"], NAME, url=server.grpc_url)
    assert answer.outputs["labels"].tolist() == [
        label.decode() for label in offline[0]["labels"][0]
    ]
    assert answer.bytes_sent == len(images[0])
    assert answer.bytes_received > 5 * (4 + 4 + 4)
    assert answer.milliseconds > 0
    assert json.dumps(answer.as_json())
    mine = tmp_path / "drawn" / "a.png"
    mine.parent.mkdir()
    mine.write_bytes(b"an image of the user's")
    taken = {mine.resolve()}
    for name in ("a-2.png", "a-3.png"):  # the second image of that name does not replace the first
        saved = drawing.save(drawing.draw(answer), answer.image, tmp_path / "drawn", taken)
        assert saved == tmp_path / "drawn" / name
        assert decode_image(saved.read_bytes()).width >= 480
    assert mine.read_bytes() == b"an image of the user's"
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        list(predict([tmp_path / "none.jpg"], NAME, url=server.grpc_url))


@pytest.mark.parametrize(
    "endpoint",
    [
        "repository/index",
        "models/{0}/config",
        "models/{0}/stats",
        "systemsharedmemory/status",
        "logging",
        "trace/setting",
    ],
)
def test_steering_endpoints_are_closed(server, endpoint):
    url = f"http://{server.http_url}/v2/{endpoint.format(NAME)}"
    data = b"{}" if endpoint.startswith("repository") else None
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=10)
    assert raised.value.code == 403
    raised.value.close()


def test_metrics_are_served(server):
    with urllib.request.urlopen(server.metrics_url, timeout=10) as reply:
        assert b"nv_inference_request_success" in reply.read()


def test_limits_of_the_repository_hold_in_the_server(artifact_t, tmp_path, images):
    options = PopulateOptions(limits=ImageLimits(max_bytes=200_000, max_pixels=400_000))
    populate(artifact_t.directory, repository=tmp_path / "r", options=options)
    with serve(tmp_path / "r") as server, _runner(server, "http") as runner:
        runner.infer(_bytes(images[0]))
        with pytest.raises(BadInput, match="1200x900 = 1,080,000 pixels, the limit is 400,000"):
            runner.infer(_bytes(encoded(photograph(1200, 900), quality=20)))
        with pytest.raises(BadInput, match="200,001 bytes, the limit is 200,000"):
            runner.infer(_bytes(bytes(200_001)))


def test_float32_network_answers_alike(checkpoint_t, tmp_path, images, offline):
    from dfvt_deploy.conversion.export import export

    artifact = export("t", checkpoint=checkpoint_t, output=tmp_path, input_kind="float32")
    populate(artifact.directory, repository=tmp_path / "r")
    with serve(tmp_path / "r") as server, _runner(server, "grpc") as runner:
        _equal(runner.infer(_bytes(images[0])), offline[0])


def _children(pid: int) -> set[int]:
    """Processes whose parent, or its parent, is `pid`."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    children = {child for child, parent in parents.items() if parent == pid}
    return children | {c for child in children for c, parent in parents.items() if parent == child}


def _shared_memory() -> set[str]:
    return {p.name for p in Path("/dev/shm").glob("*") if "dfvt" in p.name or "triton" in p.name}


def _start(repository: Path, tmp_path: Path) -> tuple[subprocess.Popen, dict]:
    command = [sys.executable, "-m", "dfvt_deploy", "serve", "--repository", str(repository)]
    process = subprocess.Popen(
        [*command, "--ephemeral-ports", "--json", "--log-file", str(tmp_path / "log" / "t.log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # A shell ignores Ctrl-C in what it runs in the background, and Python inherits that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    document = ""
    while True:
        line = process.stdout.readline()
        document += line
        if line == "}\n":
            return process, json.loads(document)
        assert line, process.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -9)]
)
def test_serve_stops_and_leaves_nothing_behind(repository, tmp_path, number, code):
    before = _shared_memory()
    process, document = _start(repository, tmp_path)
    assert document["models"] == [NAME]
    assert "Started HTTPService" in (tmp_path / "log" / "t.log").read_text()
    left = _children(process.pid)
    assert len(left) >= 4, "the server and its Python processes"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    deadline = time.monotonic() + 30  # after SIGKILL the kernel ends the server, not we
    while any(_running(pid) for pid in left) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_running(pid) for pid in left)
    if number == signal.SIGKILL:
        with serve(repository):  # the next start clears what a killed one left
            pass
    assert _shared_memory() <= before


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_killed_server_is_an_error_of_client_and_serve(repository, tmp_path, protocol, images):
    before = _shared_memory()
    process, document = _start(repository, tmp_path)
    (server,) = [
        pid
        for pid in _children(process.pid)
        if "tritonserver" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    ]
    answers = 0
    with (
        TritonRunner(NAME, document[protocol], protocol) as runner,
        pytest.raises(ServerFailed, match="no Triton answers"),
    ):
        while True:
            runner.infer(_bytes(images[0]))
            answers += 1
            if answers == 6:
                os.kill(server, signal.SIGKILL)
    assert 6 <= answers < 1000
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "Triton ended by itself (killed by SIGKILL)" in errors
    assert _shared_memory() <= before


def test_a_model_that_cannot_load_is_one_readable_line(artifact_t, tmp_path):
    repository = tmp_path / "r"
    populate(artifact_t.directory, repository=repository)
    config = repository / f"{NAME}_network" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: 1000", "dims: 999"))
    model = repository / f"{NAME}_postprocess" / "1" / "model.py"
    model.write_text("import a_package_nobody_has\n")
    with pytest.raises(ServerFailed) as raised, serve(repository):
        pass
    message = str(raised.value)
    assert "\n" not in message
    assert f"{NAME}_postprocess: " in message
    assert "No module named 'a_package_nobody_has'" in message
    assert "requirements.txt" in message
    assert f"{NAME}:" not in message, "the ensemble fails only in consequence"


def test_a_config_that_is_refused_is_one_readable_line(repository, tmp_path):
    shutil.copytree(repository, tmp_path / "r")
    config = tmp_path / "r" / NAME / "config.pbtxt"
    config.write_text(config.read_text().replace('key: "logits"', 'key: "nothing"'))
    with (
        pytest.raises(ServerFailed, match=f"could not load {NAME}: .*nothing"),
        serve(tmp_path / "r"),
    ):
        pass


def test_a_changed_network_is_not_served(repository, tmp_path):
    shutil.copytree(repository, tmp_path / "r")
    with (tmp_path / "r" / f"{NAME}_network" / "1" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="populate again"), serve(tmp_path / "r"):
        pass


def test_ports_in_use_are_reported_before_starting(repository):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        ports = Ports(0, port, 0)
        with (
            pytest.raises(BadInput, match=rf"grpc port {port} .* --grpc-port"),
            serve(repository, ports=ports),
        ):
            pass


def test_the_embedded_server_stays_on_the_loopback_address(repository):
    with (
        pytest.raises(BadInput, match=r"lacks security fixes.* --expose-embedded"),
        serve(repository, host="0.0.0.0"),
    ):
        pass


@pytest.mark.parametrize("host", ["::1", "example.org", ""])
def test_only_ipv4_addresses_are_taken(repository, host):
    with pytest.raises(BadInput, match="is not an IPv4 address"):
        serve(repository, host=host, expose_embedded=True).__enter__()


def test_a_folder_with_a_space_is_served(artifact_t, tmp_path, images, offline):
    populate(artifact_t.directory, repository=tmp_path / "a b" / "my models")
    with (
        serve(tmp_path / "a b" / "my models", host="localhost") as server,
        _runner(server, "http") as runner,
    ):
        _equal(runner.infer(_bytes(images[0])), offline[0])


def test_a_folder_that_is_no_model_is_named(repository, tmp_path):
    shutil.copytree(repository, tmp_path / "r")
    (tmp_path / "r" / "stray").mkdir()
    with (
        pytest.raises(ServerFailed, match=r"could not load stray: .*config.pbtxt"),
        serve(tmp_path / "r"),
    ):
        pass


def test_a_second_signal_does_not_defeat_the_stop(repository, tmp_path):
    process, _ = _start(repository, tmp_path)
    left = _children(process.pid)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if process.poll() is None:
            process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not any(_running(pid) for pid in left)


def test_steps_and_odd_urls_are_named(server, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(photograph(30, 30)))
    with pytest.raises(BadInput, match="predict asks whole models"):
        list(predict([tmp_path / "a.jpg"], f"{NAME}_preprocess", url=server.grpc_url))
    for url in ("localhost:abc", "localhost", "http://localhost:8000", "a b:1"):
        for protocol in PROTOCOLS:
            with pytest.raises(BadInput, match="must be host:port"):
                list(predict([tmp_path / "a.jpg"], NAME, url=url, protocol=protocol))


def test_nothing_to_serve_says_what_to_do(tmp_path):
    with pytest.raises(BadInput, match="holds no model; make one with: dfvt-deploy populate"):
        serve(tmp_path).__enter__()


def test_docker_command_serves_the_same_folder(repository):
    command = docker_command(repository, "127.0.0.1", Ports())
    assert "--publish=127.0.0.1:8001:8001" in command
    assert f"--volume={repository}:/models:ro" in command
    assert "--gpus=all" not in command
    with pytest.raises(BadInput, match="holds no model"):
        docker_command(repository / "none", "127.0.0.1", Ports())


def test_a_shown_log_is_seen_and_its_file_does_not_grow_without_end(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(server_log, "_KEPT_BYTES", 1000)
    log = server_log.ShownLog(tmp_path / "log")
    script = "for i in $(seq 500); do echo line $i; done"
    with subprocess.Popen(["sh", "-c", script], stdout=log.fileno()):
        log.started()
    log.close()
    assert capfd.readouterr().err.splitlines() == [f"line {i}" for i in range(1, 501)]
    kept = (tmp_path / "log").read_text().splitlines()
    assert kept[-1] == "line 500"
    assert (tmp_path / "log").stat().st_size < 1100
