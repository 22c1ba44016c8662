"""How far the default settings, and those that `tune` finds, are from the best of the full grid.

    python benchmarks/tuning_grid.py exports/dfvt_s_classification [--goal throughput] [--rounds 2]

First `tune` runs, then every point of its grid is measured, in shuffled order, with the files that
`tune` may choose. Each measurement has a server of its own and windows of two seconds. The last
lines compare the medians over the rounds, and the time that both took.
"""

import argparse
import random
import tempfile
from dataclasses import replace
from os import environ
from pathlib import Path
from statistics import median
from time import monotonic

from dfvt_deploy import open_artifact
from dfvt_deploy.cores import usable_cores
from dfvt_deploy.serving.tasks import served_task
from dfvt_deploy.tuning.options import TuneOptions
from dfvt_deploy.tuning.search import grid_of
from dfvt_deploy.tuning.tune import Measurements, files_to_tune, tune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--goal", choices=["latency", "throughput"], default="throughput")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    artifact = open_artifact(args.model)
    options = TuneOptions(model=args.model.name, exports=args.model.parent, goal=args.goal)
    load = 1 if args.goal == "latency" else 8
    usual = served_task(artifact.manifest.task).instances
    grid = grid_of(usable_cores(), load, usual)
    files = files_to_tune(artifact)

    with tempfile.TemporaryDirectory() as cache:  # nothing of an earlier run is taken
        environ["DFVT_DEPLOY_CACHE"] = cache
        start = monotonic()
        found = tune(options)
        searched = monotonic() - start
        costs: dict = {}
        start = monotonic()
        for _ in range(args.rounds):
            run = Measurements(artifact, replace(options, fresh=True))
            every = [(file, point) for file in files for point in grid]
            for file, point in random.sample(every, len(every)):
                cost = run.measure(file, point, window=2.0)
                costs.setdefault((file.title, point), []).append(cost)
                print(f"{file.title} {tuple(point)} {cost:.2f}", flush=True)
        whole = monotonic() - start

    medians = {key: median(values) for key, values in costs.items()}
    best = min(medians, key=medians.__getitem__)
    print(f"\nmilliseconds {'of a request' if load == 1 else 'for an image'}, least first")
    for key in sorted(medians, key=medians.__getitem__):
        print(f"{medians[key]:8.2f} {medians[key] / medians[best]:6.3f}  {key[0]} {tuple(key[1])}")
    default = min(medians[key] for key in medians if key[1] == grid[0])
    print(f"default settings: {default / medians[best]:.3f} of the best")
    if found.chosen is not None:
        chosen = found.chosen.settings
        print(
            f"tune: {chosen}, {len(found.rows)} measured in {searched:.0f} s; "
            f"the grid of {len(medians)}: {whole / args.rounds:.0f} s a round"
        )


if __name__ == "__main__":
    main()
