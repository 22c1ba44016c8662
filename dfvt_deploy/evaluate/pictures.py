"""The images whose answers changed most, drawn with both answers for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..compare.detection import MIN_SCORE
from ..drawing import drawing_of
from ..tasks.images import decode_image
from ..types import Task
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
    validation: Validation, stages: Stages, samples: Mapping[str, Sample]
) -> list[Picture]:
    """Pass the images that changed most through the shown stage again, and draw the answers.
    `samples` are the images by the names that `validation` gives them."""
    if validation.shown is None or not validation.changed:
        return []
    way = stages.way_to(validation.shown)
    pictures = []
    for changed in validation.changed:
        prepared = run.prepare(samples[changed.image], stages.pipeline)
        try:
            done = [outputs for _, outputs, _ in run.stage_outputs(way, prepared)]
            first, last = (_drawn(validation.task, outputs) for outputs in (done[0], done[-1]))
        except (run.ImageRefused, ValueError, IndexError) as error:
            pictures.append(Picture(changed.image, changed.change, problem=str(error)))
        else:
            pictures.append(Picture(changed.image, changed.change, first, last))
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
