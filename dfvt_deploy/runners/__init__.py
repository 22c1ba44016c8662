"""What answers: each runner is a context manager with one `infer(feed) -> dict`."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[Any]]


class Runner(Protocol):
    """Named tensors in, named tensors out."""

    def __enter__(self) -> Runner: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]: ...
