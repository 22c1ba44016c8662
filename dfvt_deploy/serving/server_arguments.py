"""What Triton is told on its command line: where it listens, the key to the part of its API that
steers it, and what becomes of its metrics and traces.

Triton takes the key on its command line, which every user of the machine can read. So the command
line holds a placeholder, with line breaks that no request can send in a header, and the key takes
its place in the memory of the running process. `serve` makes a key for itself where the user gives
none.
"""

import contextlib
import ipaddress
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput, ServerFailed
from ..options import Options, option

LOOPBACK = "127.0.0.1"

#: Quantiles of the latest minute beside the sums; Triton's default is sums alone.
SUMMARIES = ("--metrics-config=summary_latencies=true",)

#: The header that carries the key.
HEADER = "dfvt-admin"

#: Parts of the API that change the server or its memory.
_STEERING = ("model-repository", "shared-memory", "trace", "logging")

#: Parts that reveal how models are set up and used, which this machine's users may read.
_REVEALING = ("model-config", "statistics")


@dataclass(frozen=True)
class Ports:
    """TCP ports; 0 takes a free one."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


EPHEMERAL = Ports(0, 0, 0)


def free_ports(host: str, ports: Ports) -> Ports:
    """Replace zeros by free ports and make sure that the others are free. Raises BadInput where the
    host is not an IPv4 address of this machine, or a port is in use."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        raise BadInput(f"host {host!r} is not an IPv4 address, as 127.0.0.1") from None
    chosen: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        for name, port in vars(ports).items():
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


def read_key(path: Path) -> str:
    """The key in a file; a file that does not exist is made, with a new key. Raises BadInput where
    the file cannot be read, others can read it too, or it holds no key."""
    try:
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise BadInput(f"--admin-key-file {path} can be read by others; run: chmod 600 {path}")
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--admin-key-file {path} cannot be used: {error}") from error
    if not re.fullmatch(r"[A-Za-z0-9_-]{20,200}", key):
        raise BadInput(
            f"--admin-key-file {path} must hold one key of 20 to 200 letters, digits, '_' and '-'"
        )
    return key


def placeholder(length: int) -> str:
    """A value that no header can have, of the length of the key that will take its place."""
    return ("\n\n" + secrets.token_urlsafe(length))[:length]


def restrictions(host: str, value: str) -> list[str]:
    """Triton's options that close the steering part, beyond loopback the revealing part too."""
    closed = ",".join(_STEERING if host == LOOPBACK else (*_STEERING, *_REVEALING))
    return [
        f"--http-restricted-api={closed}:{HEADER}={value}",
        f"--grpc-restricted-protocol={closed}:{HEADER}={value}",
    ]


def replace_in_memory(pid: int, old: str, new: str) -> None:
    """Replace a text in the memory of a process that this one has started by one of its length.
    Raises ServerFailed where the text is not there, or the system does not allow it."""
    before, after, count = old.encode(), new.encode(), 0
    try:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            for start, end in _data_areas(maps):
                memory.seek(start)
                for found in re.finditer(re.escape(before), memory.read(end - start)):
                    memory.seek(start + found.start())
                    count += memory.write(after)
    except OSError as error:
        raise ServerFailed(f"the key cannot be given to Triton: {error}") from error
    if not count:
        raise ServerFailed("the key cannot be given to Triton: its memory does not hold the option")


def _data_areas(maps: list[str]) -> Iterator[tuple[int, int]]:
    """Start and end of the writable areas of /proc/<pid>/maps that belong to no file; the command
    line is in that of the stack, which is left out."""
    for line in maps:
        addresses, rights, _offset, _device, inode, *name = line.split(maxsplit=5)
        if rights.startswith("rw") and inode == "0" and name in ([], ["[heap]"]):
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)


class MonitoringOptions(Options):
    """Where the server sends OpenTelemetry traces."""

    trace_url: str | None = option(
        None,
        envvar="DFVT_TRACE_URL",
        help="Send traces to an OpenTelemetry collector, such as http://127.0.0.1:4318/v1/traces.",
    )
    trace_every: int = option(
        100, minimum=1, envvar="DFVT_TRACE_EVERY", help="Trace one request of so many."
    )

    def check(self) -> None:
        if self.trace_url is None:
            self.refuse("is for --trace-url; give the address of a collector", "trace_every")
        if self.trace_url is not None and not self.trace_url.startswith(("http://", "https://")):
            raise BadInput(
                f"--trace-url {self.trace_url} must begin with http:// or https://; a collector "
                "takes OTLP over HTTP at port 4318, path /v1/traces"
            )

    @property
    def monitoring(self) -> tuple[str, ...]:
        """Triton's options for metrics and traces."""
        if self.trace_url is None:
            return SUMMARIES
        settings = (
            "mode=opentelemetry",
            f"opentelemetry,url={self.trace_url}",
            "opentelemetry,resource=service.name=dfvt-deploy",
            "level=TIMESTAMPS",
            f"rate={self.trace_every}",
        )
        return (*SUMMARIES, *(f"--trace-config={setting}" for setting in settings))
