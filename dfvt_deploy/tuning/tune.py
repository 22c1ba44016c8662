"""`tune`: search on live servers, measure the best again, and write them into the manifest."""

import random
from dataclasses import replace
from math import inf
from time import monotonic
from typing import Any

from ..artifact import Artifact, open_artifact, update_manifest
from ..benchmarking.bench import read_images
from ..benchmarking.candidates import Candidate, candidates_of
from ..benchmarking.options import BenchOptions
from ..benchmarking.results import ServedRow
from ..benchmarking.served import measure_target, populated
from ..cores import processor, usable_cores
from ..errors import DfvtError, GateFailed
from ..evaluate.provenance import versions
from ..files import cache_directory, digest_of, write_text
from ..manifest import TunedRow, Tuning
from ..options import from_fields
from ..progress import note, stderr
from ..provenance import now
from ..serving.repository import may_be_chosen
from ..serving.tasks import served_task
from .options import TuneOptions
from .search import Point, grid_of, search

#: Seconds of a window in the search, and of one in which so many of the best are measured again.
_SHORT, _LONG, _FINALISTS = 0.5, 2.0, 3
_TOO_SLOW = 1e9  # the cost of a p99 at its limit


@from_fields(TuneOptions, "exports/model")
def tune(options: TuneOptions) -> Tuning:
    """Find the settings of `populate` that are best here, and write them into the manifest. What
    neither passed `validate` nor is float32 in onnxruntime is not measured. Ctrl-C ends the run and
    leaves the manifest as it was; a further run takes the measurements that are there. Raises
    BadInput for what cannot be used, GateFailed where no file may be served."""
    artifact = open_artifact(options.exports / options.model)
    candidates = files_to_tune(artifact)
    run, interrupted = Measurements(artifact, options), False
    try:
        run.measure_all(candidates)
    except KeyboardInterrupt:
        interrupted = True
    rows = sorted(run.rows.values(), key=lambda row: (not row.final, run.cost(row)))
    tuning = Tuning(
        created=now(),
        command=options.command_line(),
        goal=options.goal,
        machine=processor(),
        cores=usable_cores(),
        chosen=next((row for row in rows if run.cost(row) < _TOO_SLOW), None),
        rows=tuple(rows),
        interrupted=interrupted,
    )
    if tuning.chosen and not interrupted:
        update_manifest(artifact.directory, lambda m: m.model_copy(update={"tuned": tuning}))
    return tuning


def files_to_tune(artifact: Artifact) -> list[Candidate]:
    """The forms that may be chosen, with a note on the others; GateFailed where none may."""
    found = [each for each in candidates_of(artifact) if each.servable]
    candidates = [c for c in found if may_be_chosen(c.runtime, c.precision, c.verdict)]
    judge = artifact.command("validate")
    for each in (each for each in found if each not in candidates):
        note(f"left out: {each.title}, as {each.file.name} is {each.verdict}; judge it: {judge}")
    if not candidates:
        name = artifact.manifest.name
        raise GateFailed(f"no file of {name} may be served; mend it and run: {judge}")
    return candidates


class Measurements:
    """Those of one run; `rows` holds them by the form of the model and the settings."""

    def __init__(self, artifact: Artifact, options: TuneOptions) -> None:
        self._artifact, self._options = artifact, options
        self._requests = options.concurrency or (8 if options.goal == "throughput" else 1)
        load: dict[str, Any] = {"concurrency": (self._requests,), "protocols": ("grpc",)}
        self._bench = BenchOptions(serve=True, images=options.images, **load)
        self._images = read_images(self._bench)
        self._right: dict[Candidate, Any] = {}
        self.rows: dict[tuple[Candidate, Point], TunedRow] = {}

    def measure_all(self, candidates: list[Candidate]) -> None:
        """Search with short measurements in 7 tenths of the time, then measure the best longer."""
        usual = served_task(self._artifact.manifest.task).instances
        grid = grid_of(usable_cores(), self._requests, usual)
        most = max(8, len(grid) * len(candidates) // 5)
        end = monotonic() + 42 * self._options.minutes
        costs = search(candidates, grid, self.measure, lambda n: n < most and monotonic() < end)
        best = sorted((key for key in costs if costs[key] < inf), key=costs.__getitem__)
        for key in random.sample(best[:_FINALISTS], len(best[:_FINALISTS])):
            if monotonic() < end + 18 * self._options.minutes:
                self.measure(*key, _LONG)

    def cost(self, row: TunedRow) -> float:
        """What is to be least: milliseconds of a request, or of the server for an image; beyond
        `_TOO_SLOW` where the p99 is over its limit, infinite where it cannot be chosen."""
        figures, limit = row.figures, self._options.p99_ms or inf
        if row.problem or not figures["images_per_second"]:
            return inf
        if figures["p99_ms"] > limit:
            return _TOO_SLOW * figures["p99_ms"] / limit
        latency = self._options.goal == "latency"
        return figures["p50_ms"] if latency else 1000 / figures["images_per_second"]

    def measure(self, c: Candidate, point: Point, window: float = _SHORT) -> float:
        """The cost of a form with settings, measured now or kept from an earlier run."""
        settings: dict[Any, Any] = point._asdict()
        if c.runtime == "tensorrt":
            del settings["threads"]
        row = TunedRow(
            settings={"backend": str(c.runtime), "precision": str(c.precision), **settings},
            file=c.file.name,
            file_sha256=self._artifact.manifest.files[c.file.name].sha256,
            verdict=c.verdict,
            final=window == _LONG,
        )
        here = processor(), usable_cores(), versions(), self._requests, self._images
        key = digest_of([row.model_dump(mode="json"), window, *here])
        path = cache_directory() / "tune" / f"{key}.json"
        if path.is_file() and not self._options.fresh:
            row = TunedRow.model_validate_json(path.read_bytes())
        else:
            found: list[ServedRow] = []
            options = replace(self._bench, window=window)
            try:
                with populated(self._artifact, c, **settings) as at:
                    measure_target(self._artifact, at, options, self._images, found, self._right)
                got = found[0]
                figures = {"p50_ms": got.p50.median, "p99_ms": got.p99}
                figures |= {"memory_mb": got.memory_mb or 0, "images_per_second": got.throughput}
                bad = f"{got.wrong} wrong answers, {got.failed} requests without one"
                problem = bad if got.wrong or got.failed else ""
                row = row.model_copy(update={"figures": figures, "problem": problem})
                write_text(path, row.model_dump_json())
            except DfvtError as error:
                row = row.model_copy(update={"problem": error.args[0]})
        self.rows[c, point] = row
        if stderr.is_terminal:
            text = ", ".join(f"{name} {value:.1f}" for name, value in row.figures.items())
            note(f"{len(self.rows)}: {c.title} {tuple(point)}: {row.problem or text}")
        return self.cost(row)
