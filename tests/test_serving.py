"""A real Triton server: answers, refusals, starting, stopping and dying."""

import contextlib
import gzip
import http.client
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from dfvt_deploy.errors import ArtifactError, BadInput, ServerFailed
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving import http_api, server_log
from dfvt_deploy.serving import process as server_process
from dfvt_deploy.serving.client import draw_prediction, image_paths, predict, save_picture
from dfvt_deploy.serving.docker import docker_command
from dfvt_deploy.serving.process import _signals_held, children_of, stopped_by_sigterm
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve
from dfvt_deploy.serving.server_arguments import Ports
from dfvt_deploy.tasks import classification
from dfvt_deploy.tasks.images import decode_image

from .fixtures import encoded, json_document, photograph
from .test_preprocessing import MODES, damaged, jpeg_of_many_scans

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
            outputs = runner.infer(classification.preprocess_batch([decode_image(data)]))
            answers.append(classification.postprocess_batch(outputs, artifact_t.manifest.labels))
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
        saved = save_picture(draw_prediction(answer), answer.image, tmp_path / "drawn", taken)
        assert saved == tmp_path / "drawn" / name
        assert decode_image(saved.read_bytes()).width >= 480
    assert mine.read_bytes() == b"an image of the user's"
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        list(predict([tmp_path / "none.jpg"], NAME, url=server.grpc_url))


STEERING = [
    "repository/index",
    "repository/models/{0}/unload",
    "systemsharedmemory/status",
    "systemsharedmemory/region/a/register",
    "logging",
    "trace/setting",
]


def _status(url: str, post: bool, headers: dict[str, str] | None = None) -> int:
    request = urllib.request.Request(url, data=b"{}" if post else None, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize("endpoint", STEERING)
def test_nobody_can_steer_the_server(server, endpoint):
    url = f"http://{server.http_url}/v2/{endpoint.format(NAME)}"
    assert _status(url, post="repository" in endpoint or "register" in endpoint) == 403


@pytest.mark.parametrize("endpoint", ["models/{0}/config", "models/{0}/stats"])
def test_config_and_statistics_can_be_read_on_the_loopback_address(server, endpoint):
    assert _status(f"http://{server.http_url}/v2/{endpoint.format(NAME)}", post=False) == 200


def test_the_key_on_the_command_line_cannot_be_sent(server):
    words = Path(f"/proc/{server.pid}/cmdline").read_bytes().decode().split("\0")
    keys = [word.partition("dfvt-admin=")[2] for word in words if "dfvt-admin=" in word]
    assert len(keys) == 2
    assert all(key.startswith("\n\n") for key in keys)
    # What a client can send of it at most.
    for sent in (keys[0].strip(), "\r\n " + keys[0].strip()):
        with socket.create_connection(("127.0.0.1", server.ports.http), timeout=10) as connection:
            request = f"GET /v2/logging HTTP/1.1\r\nHost: a\r\ndfvt-admin: {sent}\r\n\r\n"
            connection.sendall(request.encode())
            assert b" 200 " not in connection.recv(100)  # refused, or not a request at all


def test_an_admin_key_works_and_is_on_no_command_line(repository, tmp_path):
    import tritonclient.grpc

    with serve(repository, admin_key_file=tmp_path / "key") as server:
        key = (tmp_path / "key").read_text().strip()
        assert (tmp_path / "key").stat().st_mode & 0o077 == 0
        for stat in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                assert key.encode() not in stat.read_bytes()
        url = f"http://{server.http_url}/v2/logging"
        assert _status(url, post=False, headers={"dfvt-admin": key}) == 200
        assert _status(url, post=False, headers={"dfvt-admin": key[::-1]}) == 403
        with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
            header = {"triton-grpc-protocol-dfvt-admin": key}
            assert len(client.get_model_repository_index(headers=header).models) == 4
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(BadInput, match="can be read by others; run: chmod 600"):
        serve(repository, admin_key_file=tmp_path / "key").__enter__()


def test_shared_memory_is_for_this_user_only(server):
    owner = f"dfvt_deploy_{os.getpid()}_"
    regions = [path for path in Path("/dev/shm").iterdir() if path.name.startswith(owner)]
    assert regions
    assert {region.stat().st_mode & 0o077 for region in regions} == {0}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_proxy_stands_before_the_loopback_address(repository, images, monkeypatch, protocol):
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serve(repository) as server, _runner(server, protocol) as runner:
        assert runner.infer(_bytes(images[0]))["class_ids"].shape == (1, 5)


def test_mixed_up_ports_are_named(server, images):
    with (
        TritonRunner(NAME, server.http_url, "grpc") as runner,
        pytest.raises(ServerFailed, match="this port answers http; give --protocol http"),
    ):
        runner.infer(_bytes(images[0]))
    with (
        TritonRunner(NAME, server.grpc_url, "http") as runner,
        pytest.raises(ServerFailed, match="this port answers grpc; give --protocol grpc"),
    ):
        runner.infer(_bytes(images[0]))


def test_metrics_are_served(server):
    with urllib.request.urlopen(server.metrics_url, timeout=10) as reply:
        assert b"nv_inference_request_success" in reply.read()


def test_limits_of_the_repository_hold_in_the_server(artifact_t, tmp_path, images):
    populate(artifact_t.directory, repository=tmp_path / "r", max_bytes=200_000, max_pixels=400_000)
    with serve(tmp_path / "r") as server, _runner(server, "http") as runner:
        runner.infer(_bytes(images[0]))
        with pytest.raises(BadInput, match="1200x900 = 1,080,000 pixels, the limit is 400,000"):
            runner.infer(_bytes(encoded(photograph(1200, 900), quality=20)))
        with pytest.raises(BadInput, match="200,001 bytes, the limit is 200,000"):
            runner.infer(_bytes(bytes(200_001)))


def test_a_full_queue_and_a_long_wait_are_unavailable(artifact_t, tmp_path):
    image = encoded(photograph(1600, 1200))
    limits = {"queue_size": 2, "preprocess_instances": 1}
    populate(artifact_t.directory, repository=tmp_path / "r", queue_timeout=30, **limits)
    populate(artifact_t.directory, repository=tmp_path / "t", queue_timeout=0.001)

    def ask(url: str, protocol: str) -> str:
        with TritonRunner(NAME, url, protocol) as runner:
            try:
                return str(runner.infer(_bytes(*[image] * 8))["class_ids"].shape)
            except ServerFailed as error:
                return str(error)

    with serve(tmp_path / "r") as server, ThreadPoolExecutor(12) as pool:
        for protocol in PROTOCOLS:
            url = getattr(server, f"{protocol}_url")
            found = set(pool.map(lambda _, u=url, p=protocol: ask(u, p), range(12)))
            assert "(8, 5)" in found
            refused = [text for text in found if text != "(8, 5)"]
            assert refused
            assert all("is busy: " in text and "maximum queue size" in text for text in refused)
            assert ask(url, protocol) == "(8, 5)"
    with serve(tmp_path / "t") as server, ThreadPoolExecutor(12) as pool:
        found = set(pool.map(lambda _: ask(server.grpc_url, "grpc"), range(12)))
        assert any("is busy: " in text and "timeout expired" in text for text in found)


def test_a_small_body_that_grows_does_not_fill_the_memory(server, images):
    with io.BytesIO() as file:
        with gzip.GzipFile(fileobj=file, mode="wb") as zipped:
            for _ in range(3 * 2**6):
                zipped.write(bytes(2**24))
        bomb = file.getvalue()
    assert len(bomb) < 4 * 2**20
    connection = http.client.HTTPConnection(server.http_url, timeout=60)
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": "10"}
    connection.request("POST", f"/v2/models/{NAME}/infer", bomb, headers)
    assert connection.getresponse().status in (400, 413, 500)
    connection.close()
    status = Path(f"/proc/{server.pid}/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert int(peak) < 2 * 2**20
    with _runner(server, "http") as runner:
        runner.infer(_bytes(images[0]))


def test_an_image_of_hostile_work_is_refused_in_the_server(server):
    with (
        _runner(server, "grpc") as runner,
        pytest.raises(BadInput, match="JPEG scans, the limit"),
    ):
        runner.infer(_bytes(jpeg_of_many_scans(3000, size=48)))


def test_float32_network_answers_alike(checkpoint_t, tmp_path, images, offline):
    from dfvt_deploy.exporters.export import export

    artifact = export("t", checkpoint=checkpoint_t, output=tmp_path, input_kind="float32")
    populate(artifact.directory, repository=tmp_path / "r")
    with serve(tmp_path / "r") as server, _runner(server, "grpc") as runner:
        _equal(runner.infer(_bytes(images[0])), offline[0])


def _descendants(pid: int) -> set[int]:
    children = set(children_of(pid))
    return children.union(*(_descendants(child) for child in children))


def _shared_memory(owner: int) -> set[str]:
    """Regions of the servers that a process owns; other servers may run on the machine."""
    return {path.name for path in Path("/dev/shm").glob(f"dfvt_deploy_{owner}_*")}


def _start(
    repository: Path, tmp_path: Path, stderr: IO[str] | int = subprocess.PIPE
) -> tuple[subprocess.Popen, dict]:
    # A shell ignores Ctrl-C in what it runs in the background, and programs inherit that.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "dfvt_deploy", "serve"]
    process = subprocess.Popen(
        [
            *command,
            "--repository",
            str(repository),
            "--ephemeral-ports",
            "--json",
            "--log-file",
            str(tmp_path / "log" / "t.log"),
        ],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    document = ""
    while True:
        line = process.stdout.readline()
        document += line
        if line == "}\n":
            return process, json_document("serve", document)
        assert line, process.communicate()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGKILL, -9)]
)
def test_serve_stops_and_leaves_nothing_behind(repository, tmp_path, number, code):
    process, document = _start(repository, tmp_path)
    assert document["models"] == [NAME]
    assert "Started HTTPService" in (tmp_path / "log" / "t.log").read_text()
    left = _descendants(process.pid)
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
    assert not _shared_memory(process.pid)


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _tritonserver(serve_pid: int) -> int:
    """The process id of tritonserver below `dfvt-deploy serve`."""
    for pid in children_of(serve_pid):
        if "tritonserver" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]:
            return pid
    raise AssertionError("there is no tritonserver")


def _answers(url: str, protocol: str, image: bytes) -> bool:
    try:
        with TritonRunner(NAME, url, protocol, timeout=20) as runner:
            return runner.infer(_bytes(image))["class_ids"].shape == (1, 5)
    except ServerFailed:
        return False


@pytest.mark.parametrize("killed", ["the server", "a step"])
def test_what_dies_is_started_again_at_the_same_ports(repository, tmp_path, images, killed):
    messages = tmp_path / "messages"
    with messages.open("w") as file:
        process, document = _start(repository, tmp_path, file)
    for count in (1, 2, 3):
        server = _tritonserver(process.pid)
        steps = children_of(server)
        assert len(steps) == 5
        os.kill(server if killed == "the server" else steps[-1], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while server in children_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        for protocol in ("grpc", "http"):
            while not _answers(document[protocol], protocol, images[0]):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        # Triton answers a moment before `serve` has seen that it does.
        while messages.read_text().count("Triton answers again after") < count:
            assert time.monotonic() < deadline, messages.read_text()
            time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert messages.read_text().count("starting Triton again") == 3
    assert not _shared_memory(process.pid)


def _classes_of_strings(address, image):
    """Divides by zero in the embedded release."""
    import tritonclient.http

    client = tritonclient.http.InferenceServerClient(address, network_timeout=20)
    tensor = tritonclient.http.InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image]], dtype=np.object_))
    labels = tritonclient.http.InferRequestedOutput("labels", class_count=2)
    client.infer(NAME, [tensor], outputs=[labels])


def _shape_without_data(address, _):
    """The embedded release reserves memory by the shape, more than `serve` allows it."""
    tensor = {"name": "image", "shape": [2**31], "datatype": "FP32", "data": [1]}
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", f"/v2/models/{NAME}/infer", json.dumps({"inputs": [tensor]}))
    connection.getresponse()


@pytest.mark.parametrize("send", [_classes_of_strings, _shape_without_data])
def test_a_request_that_ends_the_server_costs_a_restart(repository, tmp_path, images, send):
    process, document = _start(repository, tmp_path)
    with contextlib.suppress(Exception):
        send(document["http"], images[0])
    deadline = time.monotonic() + 60
    while not _answers(document["http"], "http", images[0]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "starting Triton again" in errors


def test_a_server_that_ends_too_often_is_given_up(repository, monkeypatch):
    monkeypatch.setattr(server_process, "_MOST_RESTARTS", 1)
    with serve(repository) as server:
        killer = threading.Thread(target=_kill_twice, args=(server,))
        killer.start()
        with pytest.raises(
            ServerFailed, match=r"killed by SIGKILL\), after 1 restarts within 10 minutes"
        ):
            server.wait()
        killer.join()


def _kill_twice(server) -> None:
    first = server.pid
    os.kill(first, signal.SIGKILL)
    while server.pid == first or not http_api.is_ready(server.http_url):
        time.sleep(0.1)
    time.sleep(0.5)
    os.kill(server.pid, signal.SIGKILL)


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.8])
def test_a_serve_killed_while_loading_leaves_nothing(repository, tmp_path, delay):
    # A shell ignores Ctrl-C in what it runs in the background, and programs inherit that.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "dfvt_deploy", "serve"]
    process = subprocess.Popen(
        [
            *command,
            "--repository",
            str(repository),
            "--ephemeral-ports",
            "--log-file",
            str(tmp_path / "log"),
        ],
        cwd=tmp_path,
    )
    deadline = time.monotonic() + 60
    while not children_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    left = _descendants(process.pid)
    process.kill()
    process.wait()
    while any(_running(pid) for pid in left) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_running(pid) for pid in left)
    assert not _shared_memory(process.pid)


def test_a_model_that_cannot_load_is_one_readable_line(artifact_t, tmp_path):
    repository = tmp_path / "r"
    populate(artifact_t.directory, repository=repository)
    config = repository / f"{NAME}_postprocess" / "config.pbtxt"
    changed = config.read_text().replace('"classification"', '"a_task_nobody_has"')
    config.write_text(changed)
    with pytest.raises(ServerFailed) as raised, serve(repository):
        pass
    message = str(raised.value)
    assert "\n" not in message
    assert f"{NAME}_postprocess: " in message
    assert "No module named 'dfvt_tasks.a_task_nobody_has'" in message
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
        with (
            pytest.raises(BadInput, match=rf"grpc port {port} .* --grpc-port"),
            serve(repository, grpc_port=port, http_port=0, metrics_port=0),
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


def test_folders_that_are_no_models_are_left_out(repository, tmp_path, images, capsys):
    shutil.copytree(repository, tmp_path / "r")
    for name in ("lost+found", ".git", ".staging.1", "stray"):
        (tmp_path / "r" / name).mkdir()
    with serve(tmp_path / "r") as server, _runner(server, "http") as runner:
        runner.infer(_bytes(images[0]))
    named = " ".join(capsys.readouterr().err.split())
    assert "not served, for want of a config.pbtxt: .git, .staging.1, lost+found, stray" in named


def test_a_second_signal_does_not_defeat_the_stop(repository, tmp_path):
    process, _ = _start(repository, tmp_path)
    left = _descendants(process.pid)
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


def test_docker_command_serves_the_same_models(artifact_t, tmp_path):
    populate(artifact_t.directory, repository=tmp_path / "r")
    (tmp_path / "r" / "stray").mkdir()
    command = docker_command(tmp_path / "r", "127.0.0.1", Ports())
    assert "--publish=127.0.0.1:8001:8001" in command
    assert f"--volume={tmp_path / 'r' / NAME}:/models/{NAME}:ro" in command
    assert not any("stray" in word for word in command)
    assert {"--cap-drop=ALL", "--user=10001:10001", "--read-only"} <= set(command)
    assert "--gpus=all" not in command
    (script,) = (word for word in command if "pip install" in word)
    assert re.findall(r"[\w-]+==[\d.]+", script)
    assert not re.search(r"[\w-]+>=", script)
    with (tmp_path / "r" / f"{NAME}_preprocess" / "1" / "model.py").open("a") as file:
        file.write("#")
    with pytest.raises(ArtifactError, match="is not the file that was populated"):
        docker_command(tmp_path / "r", "127.0.0.1", Ports())
    with pytest.raises(BadInput, match="holds no model"):
        docker_command(tmp_path / "none", "127.0.0.1", Ports())


@pytest.mark.parametrize("status", [None, 0, 1])
def test_json_of_docker_is_the_command_that_runs(repository, tmp_path, status):
    """A stand-in for docker notes its arguments and prints, as containers do; None is none."""
    (tmp_path / "bin").mkdir()
    if status is not None:
        docker, ran = tmp_path / "bin" / "docker", shlex.quote(str(tmp_path / "ran"))
        notes = f'[ "$1" = info ] || printf "%s\\0" docker "$@" > {ran}; echo noise; '
        docker.write_text(f'#!/bin/sh\n{notes}[ "$1" = info ] || exit {status}\n')
        docker.chmod(0o755)
    words = [sys.executable, "-m", "dfvt_deploy", "serve", "--docker", "--json", "--repository"]
    environment = {**os.environ, "PATH": str(tmp_path / "bin")}
    done = subprocess.run([*words, repository], capture_output=True, text=True, env=environment)
    assert done.returncode == (5 if status else 0), done.stderr
    command = json_document("serve", done.stdout)["command"]
    assert command == docker_command(repository, "127.0.0.1", Ports())
    if status is None:
        assert "no Docker engine answers here" in done.stderr
    else:
        assert (tmp_path / "ran").read_text().split("\0") == [*command, ""]
        assert "noise" in done.stderr


def test_the_script_of_the_container_hands_on_a_key_that_cannot_be_sent(repository, tmp_path):
    command = docker_command(repository, "127.0.0.1", Ports())
    at = command.index("bash")
    for name, does in (("pip", "exit 0"), ("tritonserver", 'printf "%s\\0" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(command[at:], capture_output=True, text=True, env={"PATH": path})
    words = done.stdout.split("\0")
    assert "--model-repository=/models" in words
    assert sum(word.endswith(":dfvt-admin=\n\n-") for word in words) == 2


def test_a_shown_log_is_seen_and_its_file_does_not_grow_without_end(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(server_log, "_KEPT_BYTES", 1000)
    log = server_log.ServerLog(tmp_path / "log", show=True)
    script = "for i in $(seq 500); do echo line $i; done"
    with log.opened() as output:
        process = subprocess.Popen(["sh", "-c", script], stdout=output)
    process.wait()
    log.close()
    assert capfd.readouterr().err.splitlines() == [f"line {i}" for i in range(1, 501)]
    kept = (tmp_path / "log").read_text().splitlines()
    assert kept[-1] == "line 500"
    assert (tmp_path / "log").stat().st_size < 1100


def test_predict_goes_on_past_images_that_fail(server, images, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(images[i])
    (folder / "bad.jpg").write_bytes(b"no image")
    command = [sys.executable, "-m", "dfvt_deploy", "predict", str(folder), "--model", NAME]
    command += ["--url", server.grpc_url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert [Path(d["image"]).name for d in json.loads(done.stdout)] == ["0.jpg", "1.jpg", "2.jpg"]
    assert "bad.jpg: " in done.stderr
    assert "1 of 4 images have no answer" in done.stderr
    done = subprocess.run(
        [*command[:4], str(folder / "[01].jpg"), *command[5:], "--min-score", "0.5"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0
    answers = json.loads(done.stdout)
    assert len(answers) == 2
    assert all(score >= 0.5 for d in answers for score in d["outputs"]["scores"])
    assert all(len(d["outputs"]["labels"]) == len(d["outputs"]["scores"]) for d in answers)


def test_paths_folders_and_patterns_name_images(tmp_path):
    for name in ("a.jpg", "b.png", "c.txt", "[odd].jpg"):
        (tmp_path / name).touch()
    found = image_paths([str(tmp_path / "[odd].jpg"), str(tmp_path), str(tmp_path / "*.png")])
    assert [path.name for path in found] == ["[odd].jpg", "a.jpg", "b.png"]
    assert image_paths(["none.jpg"]) == [Path("none.jpg")]
    with pytest.raises(BadInput, match="no file fits the pattern"):
        image_paths([str(tmp_path / "*.webp")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no"):
        image_paths([str(tmp_path / "empty")])


def test_a_signal_during_a_restart_is_not_lost():
    with stopped_by_sigterm():
        with _signals_held():
            os.kill(os.getpid(), signal.SIGTERM)
            held = True
        held = False  # not reached
    assert held
