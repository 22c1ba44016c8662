"""The report of a validation: one HTML page that loads nothing from elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..compare import comparison_of
from ..data import DIRECTORY
from ..errors import optional
from ..manifest import Check
from .pictures import Picture
from .results import StageResult, Validation

if TYPE_CHECKING:
    import jinja2

TEMPLATE = "report.html.j2"

#: Changed classes that the report lists.
LISTED_CLASSES = 15


def html_report(validation: Validation, pictures: dict[str, list[Picture]]) -> str:
    """The page with all figures and the drawn images of each stage."""
    return report_template().render(
        v=validation,
        pictures=pictures,
        waterfall=waterfall(validation),
        classes=[c for c in validation.classes if c.change or c.score_change][:LISTED_CLASSES],
    )


def report_template(name: str = TEMPLATE) -> "jinja2.Template":
    """The template of a page, with its filters. Raises MissingDependency without jinja2."""
    jinja2 = optional("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DIRECTORY),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = environment.filters
    filters |= {"format_figure": format_figure, "shown_checks": shown_checks}
    return environment.get_template(name)


def format_figure(value: float | None) -> str:
    """A number for people: a whole number in full, any other with four significant digits."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) < 1e9 and value == round(value) else f"{value:.4g}"


def shown_checks(checks: Sequence[Check]) -> list[Check]:
    """The checks that a table shows: all but the sanity checks that are kept."""
    return [check for check in checks if not check.passed or check.kind != "sanity"]


@dataclass(frozen=True)
class Bar:
    """One stage, in percent of the chart's width.

    left, width: the part between the figure of the stage before it and its own.
    end: its own figure.
    """

    stage: StageResult
    text: str
    left: float
    width: float
    end: float


@dataclass(frozen=True)
class Waterfall:
    """The bars in the order of the stages. A tick is a place in percent and its text."""

    title: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]


def waterfall(validation: Validation) -> Waterfall:
    """The metric of each stage in points, or without labels its agreement with the reference in
    percent. Stages without a figure are left out."""
    comparison = comparison_of(validation.task)
    title = f"{validation.metric}, points"
    if validation.metric is None:
        title = f"{comparison.share_title}, percent"
    values: dict[str, float] = {}
    for stage in validation.stages:
        value = _value(validation, stage, comparison.share)
        if not math.isnan(value):
            values[stage.name] = value
    if not values:
        return Waterfall(title, (), ())
    low, high = min(values.values()), max(values.values())
    margin = max(0.15 * (high - low), 0.25)
    low, high = max(0.0, low - margin), min(100.0, high + margin)

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    bars = []
    for stage in validation.stages:
        if stage.name not in values:
            continue
        end = place(values[stage.name])
        start = place(values[stage.source]) if stage.source in values else 0.0
        drop = values[stage.source] - values[stage.name] if stage.source in values else 0.0
        text = f"{values[stage.name]:.2f}" + (f" ({-drop:+.2f})" if abs(drop) >= 0.005 else "")
        bars.append(Bar(stage, text, min(start, end), abs(end - start), end))
    ticks = tuple((place(v), f"{v:.4g}") for v in (low, (low + high) / 2, high))
    return Waterfall(title, tuple(bars), ticks)


def _value(validation: Validation, stage: StageResult, share: str) -> float:
    if validation.metric:
        return stage.scores.get(validation.metric, math.nan)
    if stage.source is None:
        return 100.0
    return math.nan if stage.total is None else 100 * stage.total.figures.get(share, math.nan)
