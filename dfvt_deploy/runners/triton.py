"""A model on a running Triton server, over gRPC or HTTP."""

from __future__ import annotations

import contextlib
import re
from types import ModuleType, TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, MissingDependency, ServerFailed
from . import Tensors

Protocol = Literal["grpc", "http"]

DEFAULT_URLS = {"grpc": "127.0.0.1:8001", "http": "127.0.0.1:8000"}

#: What a server's refusal of the request itself is called, by protocol.
_REFUSED = ("400", "StatusCode.INVALID_ARGUMENT")
_UNKNOWN = ("404", "StatusCode.NOT_FOUND")


class TritonRunner:
    """One model of a running server; also its ensembles.

    Args:
        model: name on the server.
        url: `host:port` of the protocol; the default ports on the loopback address by default.
        version: of the model; the newest by default.
        timeout: seconds for one request.

    `infer` raises:
        BadInput: the server refused the request (its message is kept), or knows no such model.
        ServerFailed: nobody answers, the server died meanwhile, or it failed inside.
    """

    def __init__(
        self,
        model: str,
        url: str | None = None,
        protocol: Protocol = "grpc",
        *,
        version: str = "",
        timeout: float = 60,
    ) -> None:
        self.model = model
        self.protocol = protocol
        self.url = url or DEFAULT_URLS[protocol]
        self.version = version
        self.timeout = timeout
        self._client: Any = None
        self._module = _client_module(protocol)

    def __enter__(self) -> TritonRunner:
        if self.timeout <= 0:
            raise BadInput(f"timeout {self.timeout} is not above 0 seconds")
        if not re.fullmatch(r"[^\s/:]+:[0-9]{1,5}", self.url):
            raise BadInput(f"url {self.url!r} must be host:port, as {DEFAULT_URLS[self.protocol]}")
        if self.protocol == "http":
            self._client = self._module.InferenceServerClient(
                self.url, connection_timeout=self.timeout, network_timeout=self.timeout
            )
        else:
            self._client = self._module.InferenceServerClient(self.url)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(Exception):  # closing a connection that broke
            self._client.close()

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        inputs = [self._input(name, value) for name, value in feed.items()]
        options = {"client_timeout": self.timeout} if self.protocol == "grpc" else {}
        try:
            result = self._client.infer(self.model, inputs, model_version=self.version, **options)
        except Exception as error:  # tritonclient's own, gevent's, sockets'
            raise self._translated(error) from error
        response = result.get_response()
        outputs = response["outputs"] if self.protocol == "http" else response.outputs
        names = [o["name"] if self.protocol == "http" else o.name for o in outputs]
        return {name: result.as_numpy(name) for name in names}

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the model's outputs, batch first, -1 where they are free.

        Raises as `infer`.
        """
        options: dict[str, Any] = {}
        if self.protocol == "grpc":
            options = {"as_json": True, "client_timeout": self.timeout}
        try:
            found = self._client.get_model_metadata(self.model, self.version, **options)
        except Exception as error:
            raise self._translated(error) from error
        # gRPC's JSON holds 64-bit numbers as text.
        return {o["name"]: tuple(map(int, o["shape"])) for o in found["outputs"]}

    def _input(self, name: str, value: NDArray[Any]) -> Any:
        from tritonclient.utils import np_to_triton_dtype

        tensor = self._module.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
        tensor.set_data_from_numpy(np.ascontiguousarray(value))
        return tensor

    def _translated(self, error: Exception) -> BadInput | ServerFailed:
        from tritonclient.utils import InferenceServerException

        where = f"{self.model} at {self.url} ({self.protocol})"
        if not isinstance(error, InferenceServerException):
            return ServerFailed(
                f"no Triton answers for {where}: {error or type(error).__name__}; start one with: "
                "dfvt-deploy serve, or give --url"
            )
        message = " ".join(str(error.message()).split())
        status = str(error.status())
        if status in _UNKNOWN or "unknown model" in message:
            return BadInput(f"the server has no model {where}: {message}")
        if status in _REFUSED:
            return BadInput(f"{where} refused the request: {message}")
        if status == "StatusCode.UNAVAILABLE":
            return ServerFailed(
                f"no Triton answers for {where}: {message}; start one with: dfvt-deploy serve, "
                "or give --url"
            )
        return ServerFailed(f"{where} failed: {message} ({status})")


def _client_module(protocol: Protocol) -> ModuleType:
    try:
        if protocol == "grpc":
            import tritonclient.grpc as module
        elif protocol == "http":
            import tritonclient.http as module
        else:
            raise BadInput(f"protocol {protocol!r} is neither grpc nor http")
    except ImportError:
        raise MissingDependency("tritonclient", "client") from None
    return module
