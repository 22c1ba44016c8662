"""The settings that a server can have, and a search that measures few of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

Form = TypeVar("Form")


class Point(NamedTuple):
    """Settings of a server, called as the options of `populate` are."""

    instances: int
    threads: int
    preprocess_instances: int
    queue_delay_us: int


def grid_of(cores: int, concurrency: int, usual: int) -> list[Point]:
    """The sensible settings, first those that `populate` takes by default, with `usual` instances.
    All threads are half the cores, as many, or twice as many; one request waits for none."""
    default = Point(usual, cores, 2, 0)
    found = [
        Point(count, threads, decoders, delay)
        for count in range(1, cores + 1)
        for threads in sorted({cores // count * share // 2 for share in (1, 2, 4)})
        for decoders in sorted({1, 2, max(1, cores // 4), max(1, cores // 2), cores})
        for delay in ((0, 1000, 4000) if concurrency > 1 else (0,))
        if cores % count <= cores % 2 and 1 <= threads <= cores
    ]
    return [default, *(point for point in found if point != default)]


def search(
    forms: Sequence[Form],
    grid: Sequence[Point],
    cost: Callable[[Form, Point], float],
    may_go_on: Callable[[int], bool],
) -> dict[tuple[Form, Point], float]:
    """The costs of some forms of a model with some settings, the least or nearly the least too. All
    forms get the first settings. From the best on, one thing is changed at a time, or two where
    that does not help. `may_go_on` tells whether one more may be measured after so many."""
    known = {(form, grid[0]): cost(form, grid[0]) for i, form in enumerate(forms) if may_go_on(i)}
    while True:
        best = min(known, key=known.__getitem__)
        for key in _neighbours(best, forms, grid):
            if key in known:
                continue
            if not may_go_on(len(known)):
                return known
            known[key] = cost(*key)
            if known[key] < known[best]:
                break
        else:
            return known


def _neighbours(
    best: tuple[Form, Point], forms: Sequence[Form], grid: Sequence[Point]
) -> Iterator[tuple[Form, Point]]:
    """What differs in one thing, then in two, the near before the far: the form, the layout of
    instances and threads, and each other number by a step."""
    ranks = [sorted(set(values)).index for values in zip(*grid, strict=True)]

    def steps(point: Point) -> list[int]:
        return [abs(r(a) - r(b)) for r, a, b in zip(ranks, point, best[1], strict=True)]

    near = [(steps(point), point) for point in sorted(grid, key=lambda each: sum(steps(each)))]
    for changes in (1, 2):
        for form in sorted(forms, key=lambda each: each != best[0]):
            for (instances, threads, *others), point in near:
                things = [min(1, instances + threads), *others, int(form != best[0])]
                if max(things) == 1 and sum(things) == changes:
                    yield form, point
