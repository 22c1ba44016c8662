"""Find a few nodes or operators whose full precision brings a figure back within its limit.

Bisection: of the units in the graph's order, the shortest beginning that is enough ends with one
that is needed; it is kept, and the search goes on before it. So a unit costs about log2 of their
number in trials. It assumes that more units in full precision do not make the figure worse; what
is returned was tried and is good either way.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..errors import StageFailed
from ..files import write_text
from ..progress import note, stage
from ..runners import Runner

#: After this many single finds the rest is kept as it is: a loss spread over everything has no
#: small set of culprits.
MAX_FOUND = 32


@dataclass(frozen=True)
class SearchGoal:
    """A figure, at least `limit`, of a network that a runner runs.

    name: says which figure it is, on which data and in which settings; trials of an interrupted
        search are taken up only under the same name.
    """

    name: str
    limit: float
    score: Callable[[Runner], float]


class Trials:
    """Figures of what was tried, kept in a file until the search is done.

    file: beside the model; one of another key is begun anew.
    """

    def __init__(self, file: Path, key: dict[str, object]) -> None:
        self._file = file
        self._key = _digest({**key, "version": __version__})
        self._figures: dict[str, float] = {}
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["key"] == self._key:
                self._figures = {str(k): float(v) for k, v in content["figures"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none, or one that was cut off

    def __len__(self) -> int:
        return len(self._figures)

    def figure(self, kept: Collection[str], measure: Callable[[], float]) -> float:
        """What `measure` gives for these units, or gave before."""
        name = _digest(sorted(kept))
        if name not in self._figures:
            value = measure()
            self._figures[name] = -math.inf if math.isnan(value) else value
            text = json.dumps({"key": self._key, "figures": self._figures})
            write_text(self._file, text)
        return self._figures[name]

    def done(self) -> None:
        self._file.unlink(missing_ok=True)


def units_to_keep(
    units: Sequence[str],
    score: Callable[[Collection[str]], float],
    limit: float,
    trials: Trials,
    *,
    max_found: int = MAX_FOUND,
) -> tuple[str, ...]:
    """A small set of units that, kept in full precision, bring the score to at least `limit`.

    Args:
        units: all that may be kept, in the graph's order.
        score: of a network in which the given units are kept; higher is better.

    Raises:
        StageFailed: keeping all of them is not enough.
    """
    if len(trials):
        note(f"search: going on after {len(trials)} trials")

    def good(kept: Sequence[str]) -> bool:
        text = f"search: trial {len(trials) + 1}, {len(kept)} of {len(units)} kept in FP32"
        with stage(text):
            return trials.figure(kept, lambda: score(kept)) >= limit

    def figure(kept: Sequence[str]) -> float:
        return trials.figure(kept, lambda: score(kept))

    found: list[str] = []
    rest = list(units)
    if not good(found) and not good(rest):
        raise StageFailed(
            f"even with all {len(units)} candidates in FP32 the figure is {figure(rest):.4g}, the "
            f"limit is {limit:.4g}; give a lower limit, or other images"
        )
    while not good(found):
        if len(found) == max_found:
            note(
                f"search: the loss is spread; keeping {len(found) + len(rest)} without trying each"
            )
            return tuple(rest + found)
        bad, enough = 0, len(rest)
        while enough - bad > 1:
            middle = (bad + enough) // 2
            if good([*rest[:middle], *found]):
                enough = middle
            else:
                bad = middle
        found.insert(0, rest[enough - 1])
        rest = rest[: enough - 1]
        note(f"search: keeps {found[0]}")
    return tuple(found)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
