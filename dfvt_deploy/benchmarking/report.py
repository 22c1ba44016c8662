"""What a result comes to in a line, and its HTML page, which loads nothing from elsewhere."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..artifact import model_command
from ..evaluate.report import format_figure, report_template
from ..files import write_text
from .options import BenchOptions
from .results import Bench, Row, ServedRow


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


class Curve(NamedTuple):
    """The rows of one network as points in percent of the chart, by rising throughput; `hue` is
    its colour in degrees, `ranked` whether all of it passed."""

    title: str
    hue: int
    ranked: bool
    points: list[tuple[float, float, Row]]


class Chart(NamedTuple):
    """Latency over throughput of one model's rows; a tick is a place in percent and its text."""

    model: str
    rows: Sequence[Row]
    curves: list[Curve]
    across: list[tuple[float, str]]
    up: list[tuple[float, str]]


def write_report(found: Bench, options: BenchOptions, path: Path) -> None:
    """Write the page. Raises MissingDependency without jinja2."""
    models = dict.fromkeys(row.model for row in found.rows)
    charts = [chart([row for row in found.rows if row.model == model]) for model in models]
    template = report_template("bench.html.j2")
    write_text(path, template.render(b=found, conclusion=conclusion(found, options), charts=charts))


def chart(rows: Sequence[Row]) -> Chart:
    """The chart of one model's rows, at least one."""
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
        Curve(title, 360 * i // len(groups), all(r.ranked for r in group), list(map(point, group)))
        for i, (title, group) in enumerate(groups.items())
    ]
    across, up = (
        [(share, format_figure(limit * share / 100)) for share in (0.0, 25.0, 50.0, 75.0, 100.0)]
        for limit in (most, slowest)
    )
    return Chart(rows[0].model, rows, curves, across, up)
