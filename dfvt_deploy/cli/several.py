"""Commands that do the same for several models and go on past one that fails."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from ..errors import DfvtError, StageFailed

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def for_each(items: Mapping[str, Item], call: Callable[[Item], Result]) -> Iterator[list[Result]]:
    """Call a function for each item and give the block the results; failures are raised after it,
    as a StageFailed with the name of each failed item and its error. That of a single item is
    raised as it is."""
    done: list[Result] = []
    failures = 0
    failed: list[str] = []
    for name, item in items.items():
        try:
            done.append(call(item))
        except DfvtError as error:
            if len(items) == 1:
                raise
            failures += 1
            message, *details = error.args
            failed += [f"{name}: {message}", *details]
    yield done
    if failed:
        raise StageFailed(f"{failures} of {len(items)} failed:", *failed)
