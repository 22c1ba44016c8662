"""How a file was made, for the records: versions of the tools, durations and the time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def tool_versions(*tools: str) -> dict[str, str]:
    """Versions of the installed ones of these distributions, and of onnxruntime."""
    installed = {dist.name.lower(): dist.version for dist in metadata.distributions()}
    return {tool: installed[tool] for tool in (*tools, *_RUNTIMES) if tool in installed}


@contextmanager
def timed(what: str, seconds: dict[str, float]) -> Iterator[None]:
    """Record the duration of a block in seconds, to the hundredth, under the key `what`."""
    start = time.perf_counter()
    yield
    seconds[what] = round(time.perf_counter() - start, 2)


def now() -> str:
    """The present time in UTC, in ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
