"""Requests to a server's HTTP API, never through a proxy."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from ..errors import BadInput, ServerFailed
from ..json_files import parse_json

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def status_of(url: str, endpoint: str) -> int | None:
    """The HTTP status of a GET of `/v2/<endpoint>` at `host:port`; None where nobody answers."""
    try:
        with _OPENER.open(f"http://{url}/v2/{endpoint}", timeout=5) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None


def is_ready(url: str, model: str = "") -> bool:
    """Whether the server at `host:port` says that it, or one of its models, is ready."""
    return status_of(url, f"models/{model}/ready" if model else "health/ready") == 200


def request(
    url: str,
    endpoint: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 5,
) -> str:
    """What a GET of `/v2/<endpoint>` at `host:port`, with a body a POST, answers. Raises
    ServerFailed where the server refuses, with its reason, or nobody answers in time."""
    asked = urllib.request.Request(f"http://{url}/v2/{endpoint}", body, dict(headers or {}))
    try:
        with _OPENER.open(asked, timeout=timeout) as reply:
            return str(reply.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            reason = error.read(4096).decode(errors="replace")
        raise ServerFailed(f"Triton at {url} refused {endpoint}: {reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ServerFailed(
            f"Triton at {url} does not answer {endpoint}: {error}; dfvt-deploy serve starts one, "
            "--url takes the HTTP port of another"
        ) from error


def read_document(url: str, endpoint: str) -> Any:
    """The JSON document that `/v2/<endpoint>` answers. Raises as `request`, and for no JSON."""
    try:
        return parse_json(request(url, endpoint))
    except BadInput as error:
        raise ServerFailed(f"Triton at {url} answers {endpoint} with no JSON: {error}") from error
