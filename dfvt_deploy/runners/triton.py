"""A model on a running Triton server, over gRPC or HTTP."""

import contextlib
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, ServerFailed, optional
from ..types import TritonProtocol
from . import Tensors

DEFAULT_URLS = {TritonProtocol.GRPC: "127.0.0.1:8001", TritonProtocol.HTTP: "127.0.0.1:8000"}

#: How each protocol calls a refusal of the request itself, an unknown model, and a full queue.
_REFUSED = ("400", "StatusCode.INVALID_ARGUMENT")
_UNKNOWN = ("404", "StatusCode.NOT_FOUND")
_UNAVAILABLE = ("503", "StatusCode.UNAVAILABLE")

#: Triton's messages about a request that did not get its turn.
_BUSY = ("maximum queue size", "timeout expired", "Exceeds maximum")

#: Triton's names of the parts of a request's time.
_STATISTICS = {
    "queue": "queue",
    "input": "compute_input",
    "compute": "compute_infer",
    "output": "compute_output",
}

#: tritonclient replaces its own channel options by those that are given.
_GRPC_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]

#: What an HTTP/2 client says first, with an empty SETTINGS frame.
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
_HTTP1_HELLO = b"GET /v2/health/live HTTP/1.0\r\n\r\n"


class ServerBusy(ServerFailed):
    """The server has more requests than it takes; the same request may pass later."""


class UnknownModel(BadInput):
    """The server has no such model, or no such version of it."""


@dataclass(eq=False)
class TritonRunner:
    """One model of a running server; an ensemble is one too.

    url: `host:port` of the protocol; Triton's default port on the loopback address if empty.
    version: version of the model; the server's choice if empty.
    timeout: seconds for one request.

    Raises MissingDependency where tritonclient is not installed and, on entering, BadInput for a
    URL or a timeout that is not one.
    """

    model: str
    url: str = ""
    protocol: Any = TritonProtocol.GRPC
    _: KW_ONLY
    version: str = ""
    timeout: float = 60
    _client: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        try:
            self.protocol = TritonProtocol(self.protocol)
        except ValueError:
            raise BadInput(f"protocol {self.protocol!r} is neither grpc nor http") from None
        self.url = self.url or DEFAULT_URLS[self.protocol]
        self._module = optional(f"tritonclient.{self.protocol}")

    def __enter__(self) -> "TritonRunner":
        if not self.timeout > 0:
            raise BadInput(f"timeout {self.timeout} is not above 0 seconds")
        if not re.fullmatch(r"[^\s/:]+:[0-9]{1,5}", self.url):
            raise BadInput(f"url {self.url!r} must be host:port, as {DEFAULT_URLS[self.protocol]}")
        if self.protocol is TritonProtocol.HTTP:
            self._client = self._module.InferenceServerClient(
                self.url, connection_timeout=self.timeout, network_timeout=self.timeout
            )
        else:
            # A proxy of the environment cannot reach this machine's loopback address.
            options = _GRPC_OPTIONS if is_loopback(self.url.partition(":")[0]) else None
            self._client = self._module.InferenceServerClient(self.url, channel_args=options)
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(Exception):  # closing a connection that broke
            self._client.close()

    def infer(self, feed: Tensors, outputs: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """Send one request and return the outputs of these names; all of them by default. Raises
        BadInput where the server refused the request, or has no such model, ServerFailed where
        nobody answers, or the server is busy or failed."""
        inputs = [self._input(name, value) for name, value in feed.items()]
        options: dict[str, Any] = {}
        if self.protocol is TritonProtocol.GRPC:
            options["client_timeout"] = self.timeout
        if outputs:
            options["outputs"] = [self._module.InferRequestedOutput(name) for name in outputs]
        try:
            result = self._client.infer(self.model, inputs, model_version=self.version, **options)
        except Exception as error:  # tritonclient's own, gevent's, sockets'
            raise self._translated(error) from error
        response = result.get_response()
        if self.protocol is TritonProtocol.HTTP:
            names = [output["name"] for output in response["outputs"]]
        else:
            names = [output.name for output in response.outputs]
        return {name: result.as_numpy(name) for name in names}

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the model's outputs, batch first, -1 where they are free. Raises as `infer`."""
        found = self._asked("get_model_metadata", self.model, self.version)
        return {o["name"]: tuple(map(int, o["shape"])) for o in found["outputs"]}

    def statistics(self) -> dict[str, dict[str, float]]:
        """What Triton counted since it started, by model: `requests` answered, and for each of
        `queue`, `input`, `compute` and `output` the seconds of all of them. Raises as `infer`."""
        found = self._asked("get_inference_statistics")
        return {each["name"]: _counted(each["inference_stats"]) for each in found["model_stats"]}

    def _asked(self, method: str, *arguments: str) -> Any:
        """A JSON document about the server; gRPC's has 64-bit numbers as text, and no zeros."""
        options = {"as_json": True, "client_timeout": self.timeout}
        try:
            call = getattr(self._client, method)
            return call(*arguments, **(options if self.protocol is TritonProtocol.GRPC else {}))
        except Exception as error:
            raise self._translated(error) from error

    def _input(self, name: str, value: NDArray[Any]) -> Any:
        from tritonclient.utils import np_to_triton_dtype

        tensor = self._module.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(np.ascontiguousarray(value))
        return tensor

    def _translated(self, error: Exception) -> BadInput | ServerFailed:
        from tritonclient.utils import InferenceServerException

        where = f"{self.model} at {self.url} ({self.protocol})"
        if not isinstance(error, InferenceServerException):
            return self._nobody(where, str(error) or type(error).__name__)
        message = " ".join(str(error.message()).split())
        status = str(error.status())
        if status in _UNKNOWN or "unknown model" in message:
            return UnknownModel(f"the server has no model {where}: {message}")
        if status in _REFUSED:
            return BadInput(f"{where} refused the request: {message}")
        if any(text in message for text in _BUSY):
            return ServerBusy(f"{where} is busy: {message}; send fewer requests at a time")
        if status in _UNAVAILABLE and "is not ready" not in message:
            return self._nobody(where, message)
        return ServerFailed(f"{where} failed: {message} ({status})")

    def _nobody(self, where: str, reason: str) -> ServerFailed:
        other = protocol_of(self.url)
        if other not in (None, self.protocol):
            return ServerFailed(
                f"no answer for {where}: this port answers {other}; give --protocol {other}, or "
                f"--url the port of {self.protocol}"
            )
        return ServerFailed(
            f"no Triton answers for {where}: {reason}; start one with: dfvt-deploy serve, or "
            "give --url"
        )


def image_request(encoded: bytes) -> Tensors:
    """The input of an ensemble, or of its preprocessing, for one encoded image, BYTES (1, 1)."""
    return {"image": np.array([[encoded]], dtype=np.object_)}


def _counted(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    nanoseconds = {name: stats.get(key, {}).get("ns", 0) for name, key in _STATISTICS.items()}
    seconds = {name: int(value) / 1e9 for name, value in nanoseconds.items()}
    return {"requests": float(stats.get("success", {}).get("count", 0)), **seconds}


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's loopback address."""
    return host == "localhost" or bool(re.fullmatch(r"127(\.[0-9]{1,3}){3}", host))


def protocol_of(url: str) -> TritonProtocol | None:
    """The protocol that a server at `host:port` answers; None where nobody answers."""
    host, _, port = url.partition(":")
    for protocol, hello, sign in (
        (TritonProtocol.HTTP, _HTTP1_HELLO, b"HTTP/1."),
        (TritonProtocol.GRPC, _HTTP2_HELLO, b"\x04"),
    ):
        with (
            contextlib.suppress(OSError, ValueError, OverflowError),
            socket.create_connection((host, int(port)), timeout=2) as connection,
        ):
            connection.sendall(hello)
            answer = connection.recv(9)
            if answer.startswith(sign) or answer[3:4] == sign:
                return protocol
    return None
