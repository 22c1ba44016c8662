"""The images whose answers changed most, drawn with both answers for the report."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..compare.detection import MIN_SCORE
from ..drawing import drawing_of
from ..tasks.images import decode_image
from ..types import Precision, Task
from . import run
from .build_stages import Stages
from .results import Validation
from .stages import StageOutputs

if TYPE_CHECKING:
    from .datasets.sample import Sample

#: Longest side of a drawn image, in pixels.
_DRAWN_SIDE = 480


#: Answers that are written out below a drawn image.
_WRITTEN = 5


@dataclass(frozen=True)
class Drawn:
    """An answer: drawn on its image, a data URI, and its best rows as text."""

    uri: str
    rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """An image with both answers; or the `problem` why one cannot be drawn."""

    image: str
    change: float
    reference: Drawn | None = None
    candidate: Drawn | None = None
    problem: str = ""


def drawn_changes(
    validation: Validation, stages: Stages, samples: "Mapping[str, Sample]"
) -> dict[str, list[Picture]]:
    """Pass the images that changed most through a stage again and draw the answers, by stage: of
    the shown one, of files in another precision, and of stages beyond their own step's limits.
    `samples` are the images by the names that `validation` gives them."""
    pictures: dict[str, list[Picture]] = {}
    for stage in validation.stages:
        keeps = all(check.passed for check in stage.step_checks)
        rounds = stage.changes or (stage.file and stage.precision is not Precision.FP32)
        if keeps and not rounds and stage.name != validation.shown:
            continue
        way, drawn = stages.way_to(stage.name), pictures.setdefault(stage.name, [])
        for changed in stage.changed:
            prepared = run.prepare(samples[changed.image], stages.pipeline)
            try:
                done = [outputs for _, outputs, _ in run.stage_outputs(way, prepared)]
                first, last = (_drawn(validation.task, outputs) for outputs in (done[0], done[-1]))
            except (run.ImageRefused, ValueError, IndexError) as error:
                drawn.append(Picture(changed.image, changed.change, problem=str(error)))
            else:
                drawn.append(Picture(changed.image, changed.change, first, last))
    return pictures


def _drawn(task: Task, outputs: StageOutputs) -> Drawn:
    answers = {name: value[0] for name, value in outputs.answers.items()}
    image = decode_image(outputs.encoded)
    drawing = drawing_of(task)
    image = drawing.draw(image, answers, MIN_SCORE, side=_DRAWN_SIDE)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    rows = (", ".join(cells[1:]) for cells in drawing.rows(answers)[:_WRITTEN])
    uri = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return Drawn(uri, tuple(rows))
