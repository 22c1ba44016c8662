"""What a record says about how a file was made: tools and times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def tool_versions(*tools: str) -> dict[str, str]:
    """Versions of those distributions that are installed, and of onnxruntime."""
    installed = {dist.name.lower(): dist.version for dist in metadata.distributions()}
    return {tool: installed[tool] for tool in (*tools, *_RUNTIMES) if tool in installed}


@contextmanager
def timed(what: str, seconds: dict[str, float]) -> Iterator[None]:
    """Note how long a block took."""
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start
