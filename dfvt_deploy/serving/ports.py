"""TCP ports of a server."""

import contextlib
import ipaddress
import socket
from dataclasses import dataclass

from ..errors import BadInput


@dataclass(frozen=True)
class Ports:
    """TCP ports; 0 takes a free one."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


EPHEMERAL = Ports(0, 0, 0)

LOOPBACK = "127.0.0.1"


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
