"""The report of a validation: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from PIL import Image

from ..artifact import Check
from ..data import DIRECTORY, palette
from ..errors import MissingDependency
from ..tasks import classification, detection, segmentation
from ..tasks.images import decode_image
from ..types import Task
from . import passing
from .agreement import MIN_SCORE
from .hops import Hop, Passage
from .limits import ALWAYS
from .planning import Plan
from .verdict import HopResult, Validation

if TYPE_CHECKING:
    from .datasets import Sample

TEMPLATE = "report.html.j2"

#: Classes that the report lists.
LISTED_CLASSES = 15

#: Longest side of a drawn image, in pixels.
_DRAWN_SIDE = 480

#: The share that stands for agreement where there is no metric, by task.
_SHARE = {Task.CLASSIFICATION: "top1", Task.SEGMENTATION: "pixels", Task.DETECTION: "matched"}

_SHARE_TITLE = {
    Task.CLASSIFICATION: "images with the reference's best class",
    Task.SEGMENTATION: "pixels with the reference's class",
    Task.DETECTION: "detections of the reference found again",
}


@dataclass(frozen=True)
class Picture:
    """An image with the reference's and the shown hop's answers drawn in, as data URIs; empty,
    with the reason in `problem`, where an answer cannot be drawn."""

    image: str
    change: float
    reference: str = ""
    candidate: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Bar:
    """A hop in the waterfall: from the figure before it to its own, in percent of the width."""

    hop: HopResult
    text: str
    left: float
    width: float
    end: float


@dataclass(frozen=True)
class Waterfall:
    """What each hop costs. `ticks` are places in percent with their text."""

    title: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]


def html_report(validation: Validation, pictures: list[Picture]) -> str:
    """The report as a page of its own, without a resource from anywhere else.

    Raises:
        MissingDependency: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingDependency("jinja2", "validate") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DIRECTORY),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    environment.filters["needed"] = needed
    environment.filters["told"] = told
    return environment.get_template(TEMPLATE).render(
        v=validation,
        pictures=pictures,
        waterfall=waterfall(validation),
        classes=[c for c in validation.classes if c.change or c.score_change][:LISTED_CLASSES],
    )


def figure(value: float | None) -> str:
    """A number as people read it: at most four digits that count."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) < 1e9 and value == round(value) else f"{value:.4g}"


def told(checks: Sequence[Check]) -> list[Check]:
    """The checks worth a line: not those that nothing is wrong with and that every hop has."""
    common = len(ALWAYS)
    return [c for c in checks if not c.passed or c in checks[: len(checks) - common]]


def needed(check: Check) -> str:
    """A check as found figure and limit; the figure is the limit that it would have needed."""
    sign = "≥" if check.name.endswith("at least") else "≤"
    name = check.name.removesuffix(" at least").removesuffix(" at most")
    return f"{name} {figure(check.figure)} ({sign} {figure(check.limit)})"


def waterfall(validation: Validation) -> Waterfall:
    """The metric of each hop, or its agreement with the reference, in points or percent."""
    values: dict[str, float] = {}
    for hop in validation.hops:
        value = _value(validation, hop)
        if not math.isnan(value):
            values[hop.name] = value
    title = (
        f"{validation.metric}, points"
        if validation.metric
        else f"{_SHARE_TITLE[validation.task]}, percent"
    )
    if not values:
        return Waterfall(title, (), ())
    low, high = min(values.values()), max(values.values())
    margin = max(0.15 * (high - low), 0.25)
    low, high = max(0.0, low - margin), min(100.0, high + margin)

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    bars = []
    for hop in validation.hops:
        if hop.name not in values:
            continue
        end = place(values[hop.name])
        start = place(values[hop.source]) if hop.source in values else 0.0
        drop = values[hop.source] - values[hop.name] if hop.source in values else 0.0
        text = f"{values[hop.name]:.2f}" + (f" ({-drop:+.2f})" if abs(drop) >= 0.005 else "")
        bars.append(Bar(hop, text, min(start, end), abs(end - start), end))
    ticks = tuple((place(v), f"{v:.4g}") for v in (low, (low + high) / 2, high))
    return Waterfall(title, tuple(bars), ticks)


def _value(validation: Validation, hop: HopResult) -> float:
    if validation.metric:
        return hop.scores.get(validation.metric, math.nan)
    if hop.source is None:
        return 100.0
    return math.nan if hop.total is None else 100 * hop.total.figures[_SHARE[validation.task]]


def drawn_changes(
    validation: Validation, plan: Plan, samples: Mapping[str, Sample]
) -> list[Picture]:
    """The images that changed most, passed through the shown hop once more and drawn."""
    if validation.shown is None or not validation.changed:
        return []
    way: list[Hop] = []
    name: str | None = validation.shown
    while name is not None:
        way.insert(0, plan.find(name))
        name = way[0].source
    pictures = []
    for changed in validation.changed:
        prepared = passing.prepare(samples[changed.image], plan.steps)
        try:
            done = {hop.name: passage for hop, passage, _ in passing.passages(way, prepared)}
            drawn = [_drawn(plan, done[hop.name]) for hop in (way[0], way[-1])]
        except (passing.Refused, ValueError, IndexError) as error:
            pictures.append(Picture(changed.image, changed.change, problem=str(error)))
        else:
            pictures.append(Picture(changed.image, changed.change, *drawn))
    return pictures


def _drawn(plan: Plan, passage: Passage) -> str:
    manifest = plan.steps.manifest
    image = decode_image(passage.encoded)
    return _data_uri(draw_answers(manifest.task, image, passage.answers, manifest.labels))


def draw_answers(
    task: Task, image: Image.Image, answers: Mapping[str, NDArray[Any]], labels: tuple[str, ...]
) -> Image.Image:
    """An image with the answers of a batch of one in it, as each task draws them.

    Raises:
        ValueError: the answers are not of this image, or name a class that there is not.
    """
    if task is Task.SEGMENTATION:
        class_map = segmentation.decode_class_map(answers["class_map"].item())
        return segmentation.draw(image, class_map, palette(task, len(labels)), labels)
    names = [name.decode(errors="replace") for name in answers["labels"][0]]
    if task is Task.DETECTION:
        found = detection.result_from_answers({k: v[0] for k, v in answers.items()})
        return detection.draw(image, found, names, MIN_SCORE)
    return classification.draw(image, names, answers["scores"][0].tolist())


def _data_uri(image: Image.Image) -> str:
    image.thumbnail((_DRAWN_SIDE, 2 * _DRAWN_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
