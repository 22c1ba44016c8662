"""`serve`: a real tritonserver on a repository, owned from start to stop."""

import contextlib
import secrets
import shutil
import tempfile
import time
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput, DfvtError, ServerFailed
from ..files import locked
from ..progress import note, spinner, warn
from . import http_api, process, server_arguments
from .follow import Change, HalfChanged, link_model
from .installation import EMBEDDED_VERSION, find_tritonserver
from .layout import ensembles, live_version, models_of, refuse_rtx_plans, verify_repository
from .options import ServeOptions
from .server_arguments import LOOPBACK
from .server_log import ServerLog

#: Bytes that the embedded server may take for requests.
_REQUEST_MEMORY = 3 * 2**29

#: Seconds between two looks at which versions are live.
_FOLLOW_S = 1.0

#: Starts in a row that may fail.
_MOST_FAILED_STARTS = 3


@dataclass(eq=False)
class TritonServer:
    """A tritonserver process, ready to answer inside the `with` block and gone after it.

    options: all but `docker` is read. The embedded server takes only the loopback address unless
        `expose_embedded` is set: its release lacks security fixes.
    log_directory: folder for `tritonserver-<http port>.log` where the options name no log file; a
        temporary folder by default, removed at the end.
    show_log: also write the log to standard error; the file then keeps its latest part.

    Entering raises BadInput for no such repository, a port in use, or an address that is refused,
    ArtifactError where a file was changed since it was populated, MissingDependency where there is
    no tritonserver, ServerFailed where the server did not start, with the model and the reason.
    """

    options: ServeOptions
    _: KW_ONLY
    log_directory: Path | None = None
    show_log: bool = False

    def __post_init__(self) -> None:
        self.repository = self.options.repository.resolve()
        self.host = LOOPBACK if self.options.host == "localhost" else self.options.host
        self.ports = self.options.ports
        self._process: process.ServerProcess | None = None
        self._refused: dict[str, int] = {}
        self._cleanup = contextlib.ExitStack()

    @property
    def http_url(self) -> str:
        """`host:port`, as clients take it."""
        return f"{self._client_host}:{self.ports.http}"

    @property
    def grpc_url(self) -> str:
        """`host:port`, as clients take it."""
        return f"{self._client_host}:{self.ports.grpc}"

    @property
    def metrics_url(self) -> str:
        """The address that Prometheus reads."""
        return f"http://{self._client_host}:{self.ports.metrics}/metrics"

    def urls(self) -> dict[str, str | list[str]]:
        """Addresses, models and log, for people and for `--json`."""
        return {
            "http": self.http_url,
            "grpc": self.grpc_url,
            "metrics": self.metrics_url,
            "log": str(self.log_file),
            "models": self._ensembles,
        }

    @property
    def pid(self) -> int:
        """The process id of tritonserver."""
        return self._running.pid

    @property
    def _running(self) -> process.ServerProcess:
        assert self._process is not None, "the server is not running"
        return self._process

    @property
    def _ensembles(self) -> list[str]:
        return [name for name in ensembles(self.repository) if name in self.models]

    @property
    def _client_host(self) -> str:
        return LOOPBACK if self.host == "0.0.0.0" else self.host

    def __enter__(self) -> "TritonServer":
        process.remove_abandoned()
        try:
            self._prepare()
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def wait(self) -> None:
        """Block, follow promotions, and start Triton again when it or one of its Python processes
        has ended. Raises ServerFailed where it ended too often, or does not start again."""
        restarts: list[float] = []
        while True:
            death = None
            while death is None:
                death = self._running.wait_for_death(_FOLLOW_S)
                death = death or self._follow_promotions()
            start = time.monotonic()
            # Killed at once, so that it does not say that it is ready.
            self._running.stop(drain=False)
            for starts_left in reversed(range(_MOST_FAILED_STARTS)):
                process.pause(restarts, death, self._log.last_line())
                try:
                    self._start()
                    break
                except ServerFailed as error:
                    self._running.stop(drain=False)
                    death = str(error)
                    if not starts_left:
                        raise
            note(f"Triton answers again after {time.monotonic() - start:.1f} s")

    def _follow_promotions(self) -> str | None:
        """Serve versions that have become live; say why Triton must start again, where it must."""
        for name, served in self._served.items():
            version = live_version(self.repository, name)
            if version == served:
                self._refused.pop(name, None)
            if not self._key or version in (0, served, self._refused.get(name)):
                continue  # 0: the repository is not there at the moment
            try:
                # Under the lock no other version becomes live meanwhile.
                with locked(self.repository, shared=True):
                    version = live_version(self.repository, name)
                    if version in (0, served):
                        continue
                    self._refused[name] = version
                    self._running.limit_memory(None)
                    verify_repository(self.repository)
                    change = Change(self.repository, self._view, name, served, version, self._steer)
                    change.carry_out(self._running)
                self._served[name] = version
                note(f"{name} version {version} is served, after version {served}")
            except HalfChanged as error:
                return str(error)
            except (DfvtError, OSError, ValueError) as error:
                warn(f"{name} version {version} is live, but version {served} served: {error}")
            self._limit_memory()
        return None

    @property
    def _view(self) -> Path:
        """The folder that Triton reads its models from."""
        return self._runtime / "models"

    def _limit_memory(self) -> None:
        if self._installation.embedded:  # networks run in Python processes
            self._running.limit_memory(_REQUEST_MEMORY)

    def _steer(self, model: str, action: str) -> None:
        endpoint, key = f"repository/models/{model}/{action}", {server_arguments.HEADER: self._key}
        http_api.request(self.http_url, endpoint, b"{}", key, self.options.timeout)

    def _prepare(self) -> None:
        """Check the repository and lay out what stays the same for every start."""
        self.models = models_of(self.repository)
        self._runtime = Path(
            tempfile.mkdtemp(dir=process.runtime_parent(), prefix=process.new_name())
        )
        self._cleanup.callback(shutil.rmtree, self._runtime, ignore_errors=True)
        found = self._installation = find_tritonserver(self._runtime)
        if not found.embedded:
            refuse_rtx_plans(self.repository, str(found.binary))
        elif self.host != LOOPBACK and not self.options.expose_embedded:
            raise BadInput(
                f"the embedded Triton {EMBEDDED_VERSION} lacks security fixes, so it listens on "
                f"127.0.0.1 only, not on {self.host}; use NVIDIA's container (serve --docker), or "
                "--expose-embedded if the network is trusted"
            )
        key_file = self.options.admin_key_file
        self._key = server_arguments.read_key(key_file) if key_file else secrets.token_urlsafe(32)
        self.ports = server_arguments.free_ports(self.host, self.ports)
        folder = self.log_directory or self._runtime
        file = self.options.log_file or folder / f"tritonserver-{self.ports.http}.log"
        self.log_file = file.resolve()
        self._log = ServerLog(self.log_file, show=self.show_log)
        self._cleanup.enter_context(process.adopting_orphans())

    def _start(self) -> None:
        with locked(self.repository, shared=True):  # no version becomes live meanwhile
            verify_repository(self.repository)
            # Triton sees the files of the models alone, through paths without a space.
            shutil.rmtree(self._view, ignore_errors=True)
            for name in self.models:
                link_model(self.repository / name, self._view / name)
            self._served = {name: live_version(self.repository, name) for name in self._ensembles}
            self._launch()
            with spinner(f"waiting for Triton to load {self.repository.name}"):
                self._wait_until_ready()

    def _launch(self) -> None:
        shm_prefix = f"{process.new_name()}{secrets.token_hex(4)}_"
        value = server_arguments.placeholder(len(self._key))
        with self._log.opened() as output:
            self._process = process.ServerProcess(
                self._command(shm_prefix, value),
                self._installation.environment,
                output,
                regions=shm_prefix,
                folder=self._runtime,
            )
        self._placeholder = value

    def _command(self, shm_prefix: str, key: str) -> list[str]:
        listen = [
            f"--{name}-{what}={value}"
            for name, port in vars(self.ports).items()
            for what, value in (("address", self.host), ("port", port))
        ]
        return [
            str(self._installation.binary),
            f"--model-repository={self._view}",
            *self._installation.arguments,
            *listen,
            "--model-control-mode=explicit",
            "--load-model=*",
            "--disable-auto-complete-config",
            # The server is ready while it loads a further version beside the live one.
            "--strict-readiness=false",
            # Not on error: the health endpoint then tells which models failed.
            "--exit-on-error=false",
            f"--exit-timeout-secs={process.DRAIN_S}",
            *server_arguments.restrictions(self.host, key),
            *self.options.monitoring,
            f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        ]

    def _wait_until_ready(self) -> None:
        timeout = self.options.timeout
        deadline = time.monotonic() + timeout
        while True:
            if (how := self._running.ended()) is not None:
                raise ServerFailed(f"Triton ended while starting ({how}); {self._log.last_line()}")
            health = http_api.status_of(self.http_url, "health/ready")
            if health is not None:  # it answers, so loading is over
                if failed := self._failed_models():
                    reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
                    raise ServerFailed(f"Triton could not load {reasons}{_remedy(reasons)}")
                if health == 200:
                    self._running.close_shared_memory()
                    self._limit_memory()
                    self._plant_key()
                    return
            if time.monotonic() > deadline:
                raise ServerFailed(
                    f"Triton was not ready after {timeout:.0f} s; {self._log.last_line()}"
                )
            time.sleep(0.1)

    def _plant_key(self) -> None:
        try:
            server_arguments.replace_in_memory(self.pid, self._placeholder, self._key)
        except ServerFailed as error:
            if self.options.admin_key_file:
                raise
            warn(f"a promotion takes a restart of this server: {error}")
            self._key = ""

    def _failed_models(self) -> dict[str, str]:
        """Models that did not load and why, in a line each, causes without their consequences."""
        reasons = self._log.failures()
        for name in self.models:
            if name not in reasons and not http_api.is_ready(self.http_url, name):
                reasons[name] = self._log.about(name)
        causes = {k: v for k, v in reasons.items() if "depends on" not in v}
        return {k: v[:400] for k, v in (causes or reasons).items()}

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None
            self._log.close()
        self._cleanup.close()


def serve(repository: str | Path = "model_repository", **fields: Any) -> TritonServer:
    """A `TritonServer` of these `ServeOptions`, on free ports unless ports are given."""
    if not fields.keys() & {"http_port", "grpc_port", "metrics_port"}:
        fields["ephemeral_ports"] = True
    return TritonServer(ServeOptions(repository=Path(repository), **fields))


def _remedy(reasons: str) -> str:
    if "GPU" in reasons:
        return "; for a machine without a GPU, populate with --backend onnxruntime --device cpu"
    if "No module named" in reasons:
        return "; install the repository's requirements.txt for the server's Python"
    return ""
