"""Requests to a server's HTTP API, never through a proxy."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from ..errors import BadInput, ServerFailed
from ..json_files import parse_json

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def status_of(url: str, endpoint: str, timeout: float = 5) -> int | None:
    """The HTTP status of a GET of `/v2/<endpoint>` at `host:port`; None where nobody answers."""
    try:
        with _OPENER.open(f"http://{url}/v2/{endpoint}", timeout=timeout) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None


def steer(url: str, endpoint: str, headers: Mapping[str, str], timeout: float) -> None:
    """POST to `/v2/repository/<endpoint>` with the headers that carry the key. Raises ServerFailed
    where the server refused, or did not answer in time."""
    request = urllib.request.Request(
        f"http://{url}/v2/repository/{endpoint}", b"{}", dict(headers), method="POST"
    )
    try:
        with _OPENER.open(request, timeout=timeout):
            return
    except urllib.error.HTTPError as error:
        with error:
            reason = error.read(4096).decode(errors="replace")
        raise ServerFailed(f"Triton refused {endpoint}: {reason}") from None
    except OSError as error:
        raise ServerFailed(f"Triton did not answer {endpoint}: {error}") from None


def is_ready(url: str, model: str = "") -> bool:
    """Whether the server at `host:port` says that it, or one of its models, is ready."""
    return status_of(url, f"models/{model}/ready" if model else "health/ready") == 200


def read_document(url: str, endpoint: str, timeout: float = 5) -> Any:
    """The JSON document that a GET of `/v2/<endpoint>` at `host:port` answers. Raises ServerFailed
    where nobody answers, or the server refuses."""
    try:
        with _OPENER.open(f"http://{url}/v2/{endpoint}", timeout=timeout) as reply:
            return parse_json(reply.read().decode())
    except (OSError, ValueError, BadInput, http.client.HTTPException) as error:
        raise ServerFailed(f"Triton at {url} does not answer {endpoint}: {error}") from error
