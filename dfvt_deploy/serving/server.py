"""`serve`: a real tritonserver on a repository, owned from start to stop."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ..errors import BadInput, ServerFailed
from ..progress import stage
from .installation import EMBEDDED_VERSION, Installation, find_tritonserver
from .layout import CONFIG, ensembles, rtx_plans, verify_repository
from .server_log import ShownLog

LOOPBACK = "127.0.0.1"

#: Endpoints that steer or reveal the server; only its owner, who knows the key, may call them.
RESTRICTED = "model-repository,model-config,shared-memory,statistics,trace,logging"
_KEY_HEADER = "dfvt-admin"

#: How long a stopping server waits for its requests, and idle connections, to end.
_DRAIN_S = 5
_STOP_TIMEOUT_S = _DRAIN_S + 10
_SHM = Path("/dev/shm")
_PREFIX = "dfvt_deploy_"  # of everything that a server has outside its log


@dataclass(frozen=True)
class Ports:
    """TCP ports; 0 takes a free one."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


EPHEMERAL = Ports(0, 0, 0)


class TritonServer:
    """A tritonserver process, ready to answer inside the `with` block and gone after it.

    Args:
        repository: the model repository.
        host: address to listen on. The embedded server takes only the loopback address unless
            `expose_embedded` is set: its release lacks security fixes.
        ports: TCP ports.
        log_file: where the server's log goes; a temporary file by default, removed at the end.
        log_directory: instead, the folder for `tritonserver-<http port>.log`.
        show_log: also write the log to standard error; the file then keeps its latest part.
        timeout: seconds to wait until every model is loaded.

    Raises (on entering):
        BadInput: no such repository, a port in use, or an address that is refused.
        ArtifactError: a network file was changed since it was populated.
        MissingDependency: there is no tritonserver.
        ServerFailed: it did not start; the message names the model and the reason.
    """

    def __init__(
        self,
        repository: str | Path,
        *,
        host: str = "127.0.0.1",
        ports: Ports = EPHEMERAL,
        log_file: str | Path | None = None,
        log_directory: str | Path | None = None,
        show_log: bool = False,
        expose_embedded: bool = False,
        timeout: float = 300,
    ) -> None:
        self.repository = Path(repository).resolve()
        self.host = LOOPBACK if host == "localhost" else host
        self.ports = ports
        self.log_file = Path(log_file).resolve() if log_file else None
        self.log_directory = Path(log_directory).resolve() if log_directory else None
        self.show_log = show_log
        self.expose_embedded = expose_embedded
        self.timeout = timeout
        self._key = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._cleanup = contextlib.ExitStack()

    @property
    def http_url(self) -> str:
        """`host:port`, as clients take it."""
        return f"{self._client_host}:{self.ports.http}"

    @property
    def grpc_url(self) -> str:
        return f"{self._client_host}:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self._client_host}:{self.ports.metrics}/metrics"

    def urls(self) -> dict[str, str | list[str]]:
        """Addresses, models and log, for people and for `--json`."""
        return {
            "http": self.http_url,
            "grpc": self.grpc_url,
            "metrics": self.metrics_url,
            "log": str(self.log_file),
            "models": list(ensembles(self.repository)),
        }

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def _client_host(self) -> str:
        return LOOPBACK if self.host == "0.0.0.0" else self.host

    def __enter__(self) -> TritonServer:
        if not any(self.repository.glob(f"*/{CONFIG}")):
            raise BadInput(f"{self.repository} holds no model; make one with: dfvt-deploy populate")
        verify_repository(self.repository)
        _remove_abandoned()
        try:
            self._start()
            with stage(f"waiting for Triton to load {self.repository.name}"):
                self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def wait(self) -> None:
        """Block until the server ends by itself, which it should not.

        Raises:
            ServerFailed: always, with the exit status and the last line of the log.
        """
        assert self._process is not None, "the server is not running"
        status = self._process.wait()
        raise ServerFailed(f"Triton ended by itself ({_status(status)}); {self._last_log_line()}")

    def _start(self) -> None:
        runtime = Path(tempfile.mkdtemp(dir=_runtime_parent(), prefix=f"{_PREFIX}{os.getpid()}_"))
        self._cleanup.callback(shutil.rmtree, runtime, ignore_errors=True)
        # Triton's Python processes cannot take a path with a space: give them one without.
        (runtime / "models").symlink_to(self.repository)
        installation = find_tritonserver(runtime)
        if installation.embedded and self.host != LOOPBACK and not self.expose_embedded:
            raise BadInput(
                f"the embedded Triton {EMBEDDED_VERSION} lacks security fixes, so it listens on "
                f"127.0.0.1 only, not on {self.host}; use NVIDIA's container (serve --docker), or "
                "--expose-embedded if the network is trusted"
            )
        if not installation.embedded and (plans := rtx_plans(self.repository)):
            raise BadInput(
                f"{plans[0]} is a TensorRT-RTX plan, which the tensorrt backend of "
                f"{installation.binary} does not load; populate with the plans of TensorRT, or "
                "serve it with the embedded server"
            )
        self.ports = _free_ports(self.host, self.ports)
        if self.log_file is None:
            folder = self.log_directory or runtime
            self.log_file = folder / f"tritonserver-{self.ports.http}.log"
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self._cleanup.enter_context(_adopting_orphans())
        prefix = f"{_PREFIX}{os.getpid()}_{secrets.token_hex(4)}_"
        self._cleanup.callback(_remove_shared_memory, prefix)
        with contextlib.ExitStack() as opened:
            log: ShownLog | BinaryIO
            if self.show_log:
                log = ShownLog(self.log_file)
                self._cleanup.callback(log.close)
                opened.callback(log.started)
            else:
                log = opened.enter_context(self.log_file.open("wb"))
            self._process = subprocess.Popen(
                self._command(installation, runtime / "models", prefix),
                stdin=subprocess.DEVNULL,
                stdout=log.fileno(),
                stderr=subprocess.STDOUT,
                env={**os.environ, **installation.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )

    def _command(self, installation: Installation, repository: Path, shm_prefix: str) -> list[str]:
        listen = [
            f"--{name}-{what}={value}"
            for name, port in vars(self.ports).items()
            for what, value in (("address", self.host), ("port", port))
        ]
        return [
            str(installation.binary),
            f"--model-repository={repository}",
            *installation.arguments,
            *listen,
            "--model-control-mode=none",
            "--disable-auto-complete-config",
            "--strict-readiness=true",
            # Not on error: the reason is then read from the server, not from its log.
            "--exit-on-error=false",
            f"--exit-timeout-secs={_DRAIN_S}",
            f"--http-restricted-api={RESTRICTED}:{_KEY_HEADER}={self._key}",
            f"--grpc-restricted-protocol={RESTRICTED}:{_KEY_HEADER}={self._key}",
            f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        ]

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self.timeout
        while True:
            if (status := self._process.poll()) is not None:
                raise ServerFailed(
                    f"Triton ended while starting ({_status(status)}); {self._last_log_line()}"
                )
            health = self._ask("health/ready")
            if health is not None:  # it answers, so loading is over
                if failed := self._failed_models():
                    reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
                    raise ServerFailed(f"Triton could not load {reasons}{_remedy(reasons)}")
                if health == 200:
                    return
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"Triton was not ready after {self.timeout:.0f} s; {self._last_log_line()}"
                )
            time.sleep(0.1)

    def _ask(self, endpoint: str) -> int | None:
        """HTTP status of a GET, None where nobody answers."""
        try:
            with urllib.request.urlopen(
                f"http://{self.http_url}/v2/{endpoint}", timeout=5
            ) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return None

    def _failed_models(self) -> dict[str, str]:
        """Models that did not load and why, in a line each, causes without their consequences."""
        request = urllib.request.Request(
            f"http://{self.http_url}/v2/repository/index",
            data=b"{}",
            headers={_KEY_HEADER: self._key, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as reply:
            index: list[dict[str, Any]] = json.load(reply)
        reasons = {
            model["name"]: " ".join(model.get("reason", "").split())
            for model in index
            if model.get("state") != "READY"
        }
        # A model whose config is refused has no reason in the index; the log has it.
        loaded = {model["name"] for model in index if model.get("state") == "READY"}
        for folder in sorted(path for path in self.repository.iterdir() if path.is_dir()):
            name = folder.name
            if name not in loaded and not reasons.get(name):
                reasons[name] = self._log_line_about(name)
        causes = {k: v for k, v in reasons.items() if v and "depends on" not in v}
        return {k: v[:400] for k, v in (causes or reasons).items()}

    def _log_line_about(self, model: str) -> str:
        """The first error in the log that names a model, without its prefix."""
        assert self.log_file is not None
        named = re.compile(rf"(?<![\w-]){re.escape(model)}(?![\w-])")
        for line in self.log_file.read_text(errors="replace").splitlines():
            if line.startswith("E") and named.search(line):
                return line.partition("] ")[2].strip().strip('"')
        if not (self.repository / model / CONFIG).is_file():
            return f"it has no {CONFIG}"
        return f"see {self.log_file}"

    def _last_log_line(self) -> str:
        assert self.log_file is not None
        lines = self.log_file.read_text(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("E") or "error" in line.lower()]
        return f"its log says: {(errors or lines or ['nothing'])[-1].strip()[:400]}"

    def _stop(self) -> None:
        if self._process is not None:
            with _interrupts_deferred():
                _end_process(self._process)
                self._process = None
                self._cleanup.close()
        self._cleanup.close()


def serve(repository: str | Path = "model_repository", **options: Any) -> TritonServer:
    """A `TritonServer` to use in a `with` statement; the arguments are its own."""
    return TritonServer(repository, **options)


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Leave the block quietly on SIGTERM or SIGHUP, as a service is expected to."""

    def leave(_signal: int, _frame: object) -> None:
        raise _Terminated

    numbers = (signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    except _Terminated:
        pass
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end_process(process: subprocess.Popen[bytes]) -> None:
    """Ask, wait, then kill, the children of its process group included."""
    group = process.pid
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    process.wait()
    with contextlib.suppress(ChildProcessError):  # none left
        while True:
            os.waitpid(-group, 0)


#: Signals that end a program, all of which must find the server stopped.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """A second signal while stopping must not leave the server behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# Of <sys/prctl.h>.
_SET_PARENT_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36
_GET_CHILD_SUBREAPER = 37


def _die_with_parent() -> Callable[[], None] | None:
    """Have the kernel end the server when this process is killed.

    Only from the main thread: the kernel's signal follows the thread that started the child.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


@contextlib.contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Become the parent of processes that a killed server leaves, to end them ourselves."""
    libc = ctypes.CDLL(None)
    before = ctypes.c_int()
    libc.prctl(_GET_CHILD_SUBREAPER, ctypes.byref(before))
    libc.prctl(_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_SET_CHILD_SUBREAPER, before.value)


def _free_ports(host: str, ports: Ports) -> Ports:
    """Replace zeros by free ports and make sure that the others are free."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise BadInput(f"host {host!r} is not an IPv4 address, as 127.0.0.1") from None
    chosen: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        for name, port in vars(ports).items():
            if not 0 <= port <= 65_535:
                raise BadInput(f"{name} port {port} is outside 0..65535")
            listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
                listener.listen(1)
            except OSError as error:
                raise BadInput(
                    f"{name} port {port} on {host} cannot be used ({error.strerror}); choose "
                    f"another with --{name}-port, or --ephemeral-ports"
                ) from error
            chosen[name] = listener.getsockname()[1]
    return Ports(**chosen)


def _remove_shared_memory(prefix: str) -> None:
    for region in _SHM.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def _runtime_parent() -> Path:
    """The folder of temporary files, unless its path has a space (see `_start`)."""
    chosen = Path(tempfile.gettempdir())
    return Path("/tmp") if " " in str(chosen) else chosen


def _remove_abandoned() -> None:
    """What servers left whose owner was killed before it could remove it."""
    for path in (*_SHM.glob(f"{_PREFIX}*"), *_runtime_parent().glob(f"{_PREFIX}*")):
        owner = path.name.removeprefix(_PREFIX).split("_")[0]
        if not owner.isdigit() or Path("/proc", owner).exists():
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _status(code: int) -> str:
    return f"exit status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _remedy(reasons: str) -> str:
    if "GPU" in reasons:
        return "; for a machine without a GPU, populate with --backend onnxruntime --device cpu"
    if "No module named" in reasons:
        return "; install the repository's requirements.txt for the server's Python"
    return ""
