"""What a validation writes: one HTML page that loads nothing from elsewhere, with the images whose
answers changed most, its JSON, and the verdicts in the manifest."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..artifact import Artifact, update_manifest
from ..compare import comparison_of
from ..compare.detection import MIN_SCORE
from ..data import DIRECTORY
from ..drawing import drawing_of
from ..errors import optional
from ..files import staging_directory
from ..manifest import Check, Manifest, Verdict
from ..names import judged_form
from ..tasks.images import decode_image
from ..text_files import printable
from ..types import Precision, Task
from . import run
from .build_stages import Stages
from .datasets.sample import Dataset
from .judge import failed_in_step
from .results import StageResult, Validation
from .stages import StageOutputs, way_to

if TYPE_CHECKING:
    import jinja2


class Drawn(NamedTuple):
    """An answer: drawn on its image, a data URI, and its best rows as text."""

    uri: str
    rows: tuple[str, ...] = ()


class Picture(NamedTuple):
    """An image with both answers; or the `problem` why one cannot be drawn."""

    image: str
    reference: Drawn | None = None
    candidate: Drawn | None = None
    problem: str = ""


def drawn_changes(
    validation: Validation, stages: Stages, dataset: Dataset
) -> dict[str, list[Picture]]:
    """Pass the images that changed most through a stage again and draw the answers, by stage: of
    the shown one, of files in another precision, and of stages beyond their own step's limits."""
    samples = {printable(sample.id): sample for sample in dataset.samples}
    pictures: dict[str, list[Picture]] = {}
    for stage in validation.stages:
        keeps = all(check.passed for check in stage.step_checks)
        rounds = stage.changes or (stage.file and stage.precision is not Precision.FP32)
        if keeps and not rounds and stage.name != validation.shown:
            continue
        way, drawn = way_to(stage.name, stages.made), pictures.setdefault(stage.name, [])
        for changed in stage.changed:
            prepared = run.prepare(samples[changed.image], stages.pipeline)
            try:
                done = [outputs for _, outputs, _ in run.stage_outputs(way, prepared)]
                first, last = (_drawn(validation.task, outputs) for outputs in (done[0], done[-1]))
                drawn.append(Picture(changed.image, first, last))
            except (run.ImageRefused, ValueError, IndexError) as error:
                drawn.append(Picture(changed.image, problem=str(error)))
    return pictures


def _drawn(task: Task, outputs: StageOutputs) -> Drawn:
    answers = {name: value[0] for name, value in outputs.answers.items()}
    drawing, file = drawing_of(task), io.BytesIO()
    image = drawing.draw(decode_image(outputs.encoded), answers, MIN_SCORE, side=480)
    image.save(file, "JPEG", quality=82)
    rows = (", ".join(cells[1:]) for cells in drawing.rows(answers)[:5])
    uri = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return Drawn(uri, tuple(rows))


def html_report(validation: Validation, pictures: dict[str, list[Picture]]) -> str:
    """The page with all figures and the drawn images of each stage."""
    return report_template().render(
        v=validation,
        pictures=pictures,
        waterfall=waterfall(validation),
        classes=[c for c in validation.classes if c.change or c.score_change][:15],
    )


def report_template(name: str = "report.html.j2") -> "jinja2.Template":
    """The template of a page, with its filters. Raises MissingDependency without jinja2."""
    jinja2 = optional("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DIRECTORY),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(format_figure=format_figure, shown_checks=shown_checks)
    return environment.get_template(name)


def format_figure(value: float | None) -> str:
    """A number for people: a whole number in full, any other with four significant digits."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) < 1e9 and value == round(value) else f"{value:.4g}"


def shown_checks(checks: Sequence[Check]) -> list[Check]:
    """The checks that a table shows: all but the sanity checks that are kept."""
    return [check for check in checks if not check.passed or check.kind != "sanity"]


class Bar(NamedTuple):
    """One stage, in percent of the width: where it `end`s, and its part beyond its source."""

    stage: StageResult
    text: str
    left: float
    width: float
    end: float


class Waterfall(NamedTuple):
    """The bars in the order of the stages. A tick is a place in percent and its text."""

    title: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]


def waterfall(validation: Validation) -> Waterfall:
    """Each stage's metric in points, or its agreement in percent, as far as it has one."""
    comparison = comparison_of(validation.task)
    title = f"{validation.metric}, points"
    if validation.metric is None:
        title = f"{comparison.share_title}, percent"
    figures = ((s.name, _value(validation, s, comparison.share)) for s in validation.stages)
    values = {name: value for name, value in figures if not math.isnan(value)}
    if not values:
        return Waterfall(title, (), ())
    low, high = min(values.values()), max(values.values())
    margin = max(0.15 * (high - low), 0.25)
    low, high = max(0.0, low - margin), min(100.0, high + margin)

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    bars = []
    for name, value in values.items():
        stage = validation.stage(name)
        before = values.get(stage.source or "")
        gain = 0.0 if before is None else value - before
        start, end = 0.0 if before is None else place(before), place(value)
        text = f"{value:.2f}" + (f" ({gain:+.2f})" if abs(gain) >= 0.005 else "")
        bars.append(Bar(stage, text, min(start, end), abs(end - start), end))
    ticks = tuple((place(v), f"{v:.4g}") for v in (low, (low + high) / 2, high))
    return Waterfall(title, tuple(bars), ticks)


def _value(validation: Validation, stage: StageResult, share: str) -> float:
    if validation.metric:
        return stage.scores.get(validation.metric, math.nan)
    if stage.source is None:
        return 100.0
    return math.nan if stage.total is None else 100 * stage.total.figures.get(share, math.nan)


def record_validation(
    found: Validation, pictures: dict[str, list[Picture]], directory: Path, *, verdicts: bool
) -> None:
    """Write the HTML and the JSON report into the folder of an exported model, in one step; with
    `verdicts` also the verdict about each file into the folder's manifest."""
    texts = {"json": found.as_text(), "html": html_report(found, pictures)}
    with staging_directory(directory) as staging:
        files = {name: staging / name for name in found.reports.values()}
        for kind, text in texts.items():
            files[found.reports[kind]].write_text(text, encoding="utf-8")
        update_manifest(directory, lambda m: with_verdicts(m, found) if verdicts else m, files)


def with_verdicts(manifest: Manifest, found: Validation) -> Manifest:
    """The manifest with a verdict about each file that was judged and has not changed since. A file
    fails if a stage on the way to it changed what it should not. A gate's verdict about a file
    stays where a run without a gate passes."""
    verdicts = dict(manifest.verdicts)
    for stage in found.stages:
        record = manifest.files.get(stage.file or "")
        if stage.outcome == "reference" or not stage.file:
            continue
        if record is None or record.sha256 != stage.sha256:
            continue
        before = way_to(stage.name, found.stages)[:-1]
        outcome = "failed" if found.refused or any(map(failed_in_step, before)) else stage.outcome
        form = stage.file, stage.precision, stage.fast_decode
        stands = Artifact(Path(), manifest).verdict(*form)
        if outcome == "passed" and stage.gate is None and stands is not None and stands.by_gate:
            continue
        verdicts[judged_form(*form)] = Verdict(
            verdict=outcome,
            file_sha256=record.sha256,
            created=found.created,
            command=found.command,
            dataset=found.dataset,
            images=found.images,
            metric=found.metric or "agreement",
            figures=_figures(stage),
            report=found.reports["json"],
        )
    return manifest.model_copy(update={"verdicts": verdicts})


def _figures(stage: StageResult) -> dict[str, float | None]:
    if stage.gate is not None:
        gate = stage.gate
        return {"drop": gate.drop, "upper_bound": gate.upper_bound, "limit": gate.limit}
    return {
        check.name: check.figure if math.isfinite(check.figure) else None
        for check in stage.total_checks
    }
