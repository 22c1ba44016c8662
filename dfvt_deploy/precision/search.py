"""A search for the few nodes or operators that must stay in FP32 for a figure to hold.

It bisects. Among the candidates in the graph's order, the shortest beginning that is enough ends
with a candidate that is needed; the search keeps it and goes on before it. So each find takes about
log2(candidates) trials. The search assumes that more candidates in FP32 do not make the figure
worse. Its result has been tried and is good either way.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..errors import BadInput, StageFailed
from ..files import digest_of, write_text
from ..json_files import read_json
from ..progress import note, spinner
from ..runners import Runner
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..types import SearchUnit
from .conversions import Conversion

#: After so many finds the search keeps the rest of what was enough: a loss that is spread over
#: everything has no small set of culprits.
MAX_FOUND = 32


@dataclass(frozen=True)
class SearchGoal:
    """A figure of a network that must be `limit` or more; `score` computes it for the network that
    a runner runs. `name` says which figure it is, on which data and in which settings: a killed
    search is taken up only by a search with the same name."""

    name: str
    limit: float
    score: Callable[[Runner], float]


def search(
    conversion: Conversion,
    goal: SearchGoal,
    unit: SearchUnit,
    asked: Collection[str],
    file: Path,
    key: Mapping[str, object],
) -> tuple[str, ...]:
    """The nodes, or operators, that must stay in FP32 beside those that are asked for, in the
    graph's order. A killed search with the same `key` and goal is gone on with from `file`."""
    names = conversion.converted(conversion.kept(asked, least=True))
    if unit is SearchUnit.OPERATORS:
        operators = {node.name: node.op_type for node in conversion.graph.nodes}
        names = list(dict.fromkeys(operators[name] for name in names))

    def score(kept: Collection[str]) -> float:
        """The goal's figure with these kept too; minus infinity where values overflow."""
        nodes = conversion.kept(asked, kept, least=True)
        if conversion.overflow(nodes):
            return -math.inf
        with OnnxRuntimeRunner(conversion.trial(nodes).SerializeToString()) as runner:
            return goal.score(runner)

    same = {"asked": sorted(asked), "goal": [goal.name, goal.limit], "candidates": names}
    trials = Trials(file, {**key, **same})
    found = units_to_keep(names, score, goal.limit, trials)
    trials.done()
    return found


def units_to_keep(
    units: Sequence[str],
    score: Callable[[Collection[str]], float],
    limit: float,
    trials: "Trials",
) -> tuple[str, ...]:
    """A small set of units, named in the graph's order, that bring the score to at least `limit`
    when they stay in FP32. `score` gives the figure of a network in which the given units do;
    higher is better. Raises StageFailed where keeping all units is not enough."""
    if len(trials):
        note(f"search: going on after {len(trials)} trials")

    def is_enough(kept: Sequence[str]) -> bool:
        text = f"search: trial {len(trials) + 1}, {len(kept)} of {len(units)} kept in FP32"
        with spinner(text):
            return trials.figure(kept, lambda: score(kept)) >= limit

    found, rest = list[str](), list(units)
    if not is_enough(found) and not is_enough(rest):
        figure = trials.figure(rest, lambda: score(rest))
        raise StageFailed(
            f"even with all {len(units)} candidates in FP32 the figure is {figure:.4g}, the "
            f"limit is {limit:.4g}; give a lower limit, or other images"
        )
    while not is_enough(found):
        if len(found) == MAX_FOUND:
            total = len(found) + len(rest)
            note(f"search: the loss is spread; keeping {total} without trying each")
            return tuple(rest + found)
        too_few, enough = 0, len(rest)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if is_enough([*rest[:middle], *found]):
                enough = middle
            else:
                too_few = middle
        found.insert(0, rest[enough - 1])
        rest = rest[: enough - 1]
        note(f"search: keeps {found[0]}")
    return tuple(found)


#: Stands for infinite figures and, negative, for NaN; JSON has neither.
_LARGEST = 1e308


class Trials:
    """Figures by the set of units that a trial kept in FP32, kept in `file` until the search is
    done. A later search takes them up if it has the same `key`, such as the hash of the model, and
    writes the file anew otherwise."""

    def __init__(self, file: Path, key: Mapping[str, object]) -> None:
        self._file = file
        self._key = digest_of({**key, "version": __version__})
        self._figures: dict[str, float] = {}
        try:
            content = read_json(file)
            if content["key"] == self._key:
                self._figures = {str(k): float(v) for k, v in content["figures"].items()}
        except (BadInput, ValueError, KeyError, TypeError, AttributeError):
            pass  # there is none, or it is damaged

    def __len__(self) -> int:
        return len(self._figures)

    def figure(self, kept: Collection[str], measure: Callable[[], float]) -> float:
        """The figure with these units kept, measured unless an earlier trial did."""
        name = digest_of(sorted(kept))
        if name not in self._figures:
            value = measure()
            self._figures[name] = min(value, _LARGEST) if value > -_LARGEST else -_LARGEST
            write_text(self._file, json.dumps({"key": self._key, "figures": self._figures}))
        return self._figures[name]

    def done(self) -> None:
        self._file.unlink(missing_ok=True)
