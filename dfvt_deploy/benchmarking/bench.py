"""`bench`: one run over models, its result in a line, and as an HTML page of its own."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from ..artifact import Artifact, exported_models, model_command, open_artifact
from ..data import SAMPLES
from ..errors import BadInput
from ..evaluate.report import format_figure, report_template
from ..files import write_text
from ..image_files import find_images, spread
from ..options import from_fields
from ..pipeline import Pipeline
from ..serving.client import read_image
from ..tasks.images import ImageError, decode_image
from ..types import Precision
from .candidates import candidate_of, candidates_of
from .compare import compare_networks, compare_results
from .offline import time_candidates
from .options import BenchOptions, Runtime
from .results import Bench, Found, Row, ServedRow


@from_fields(BenchOptions, "exports/models")
def bench(options: BenchOptions) -> Bench:
    """Measure all forms of exported models, or of one, a folder `exports/<name>`. After Ctrl-C the
    result is what was measured until then. Raises BadInput for options, files or images that cannot
    be used, StageFailed where the baseline cannot run, and ServerFailed where the server does not
    start or answer."""
    if options.compare and all(name.endswith(".json") for name in options.models):
        return compare_results(*map(Path, options.models))
    found, images, interrupted = Found(), read_images(options), False
    try:
        if options.compare:
            compare_networks(options, images, found)
        else:
            for folder in exported_models(options.exports, options.models):
                _measure(open_artifact(folder), options, images, found)
    except KeyboardInterrupt:
        interrupted = True
    return found.result(options, len(images), interrupted=interrupted)


def _measure(
    artifact: Artifact, options: BenchOptions, images: Sequence[bytes], found: Found
) -> None:
    if options.on_server:
        from .served import measure_served

        return measure_served(artifact, options, images, found)
    pipeline, name = Pipeline(artifact.manifest), artifact.manifest.name
    baseline = candidate_of(artifact, Runtime.ONNXRUNTIME, Precision.FP32)
    others = candidates_of(artifact, options.runtimes, options.precisions)
    candidates = list(dict.fromkeys([baseline, *others]))
    prepared = [pipeline.read(data) for data in images]
    inputs = [pipeline.feed(each) for each in prepared]
    feeds = dict.fromkeys(candidates, inputs)
    outputs = time_candidates(candidates, feeds, options, artifact.manifest.task, found)
    before = [_milliseconds(pipeline.read, data) for data in images]
    pairs = zip(prepared, outputs, strict=True)
    after = [_milliseconds(pipeline.postprocess, *pair) for pair in pairs]
    found.around_ms[name] = median(before), median(after)


def read_images(options: BenchOptions) -> list[bytes]:
    """The encoded images. Raises BadInput where there is none, or one cannot be decoded."""
    folder = options.images or SAMPLES
    paths = spread(find_images(folder), options.limit)
    if not paths:
        raise BadInput(f"--images {folder} holds no image; give a folder with JPEG or PNG files")
    images = [read_image(path) for path in paths]
    for path, data in zip(paths, images, strict=True):
        try:
            decode_image(data)
        except ImageError as error:
            raise BadInput(f"{path}: {error}; take it out of --images") from None
    return images


def _milliseconds(call: Callable[..., object], *arguments: Any) -> float:
    call(*arguments)
    start = time.perf_counter()
    call(*arguments)
    return 1000 * (time.perf_counter() - start)


def conclusion(found: Bench, options: BenchOptions) -> tuple[str, str]:
    """The best of what passed its gate, and the command to go on with."""
    if options.compare:
        compared = [
            f"{row.title} of {row.model} takes {row.ratio.median:.2f} of the first's time "
            f"({row.ratio.low:.2f}-{row.ratio.high:.2f})"
            for row in found.rows[-1:]
            if row.ratio
        ]
        page = replace(options, html=options.html or Path("bench.html"))
        return "".join(compared) or "nothing was compared", page.command_line()
    best = found.best()
    if best is None:
        text = "nothing can be recommended: no form of a model passed validate and answered right"
        folders = [options.exports / row.model for row in found.rows]
        return text, model_command(folders[0], "validate") if folders else "dfvt-deploy doctor"
    fast, many = best
    words = ["--backend", many.runtime, "--precision", many.precision, "--require-validated"]
    words += ["--fast-decode"] if many.fast_decode else []
    return (
        f"of what passed: least latency {fast.title}, {fast.setting} ({fast.p50.median:.1f} ms); "
        f"most images {many.title}, {many.setting} ({many.throughput:.1f} a second)",
        model_command(options.exports / many.model, "populate", *words),
    )


def write_report(found: Bench, options: BenchOptions, path: Path) -> None:
    """Write the page. Raises MissingDependency without jinja2."""
    models = dict.fromkeys(row.model for row in found.rows)
    charts = [_chart([row for row in found.rows if row.model == model]) for model in models]
    template = report_template("bench.html.j2")
    write_text(path, template.render(b=found, conclusion=conclusion(found, options), charts=charts))


def _chart(rows: Sequence[Row]) -> dict[str, Any]:
    """Latency over throughput of one model's rows, at least one, for the page. A curve is a
    network, by rising throughput: its `hue` in degrees, whether all of it passed, and its points
    with their rows. Places are in percent of the chart; a tick is a place and its text."""
    most = 1.08 * max(row.images_per_second for row in rows)
    slowest = 1.08 * max(row.p50.median for row in rows)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        protocol = f" {row.protocol}" if isinstance(row, ServedRow) else ""
        groups.setdefault(row.title + protocol, []).append(row)
    for group in groups.values():
        group.sort(key=lambda row: row.images_per_second)

    def point(row: Row) -> tuple[float, float, Row]:
        return 100 * row.images_per_second / most, 100 - 100 * row.p50.median / slowest, row

    curves = [
        {
            "title": title,
            "hue": 360 * i // len(groups),
            "ranked": all(row.ranked for row in group),
            "points": [point(row) for row in group],
        }
        for i, (title, group) in enumerate(groups.items())
    ]
    across, up = (
        [(share, format_figure(limit * share / 100)) for share in (0.0, 25.0, 50.0, 75.0, 100.0)]
        for limit in (most, slowest)
    )
    names = {"model": rows[0].model, "rows": rows}
    return {**names, "curves": curves, "across": across, "up": up}
