"""`explain`: heat maps of what an answer rests on, each with figures of how far to believe it."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..artifact import open_artifact
from ..errors import BadInput
from ..files import staged
from ..progress import steps_bar
from ..serving.client import image_paths, read_image
from ..task_entries import entry
from ..tasks.images import ImageError, decode_image
from .faithfulness import Faithfulness, correlation, faithfulness
from .options import ExplainOptions
from .pictures import draw_maps
from .sources import Source, open_sources
from .task_explanation import Heat, Target, TaskExplanation


@dataclass(frozen=True)
class Explanation:
    """One map of one target.

    source: the layer of Grad-CAM++, or what answered the occluded images.
    heat: float32 (H, W), over the image, 0 to 1.
    sanity: Spearman's correlation with the map of a model of random weights; near 0 where the map
        depends on what the model has learnt.
    agreement: the same with the target's first map; 1 for that one.
    picture, array: the PNG with all maps of the target, and the .npy of `heat`.
    """

    image: str
    target: str
    class_id: int
    source: str
    heat: Heat
    faithfulness: Faithfulness
    sanity: float
    agreement: float
    picture: Path
    array: Path

    def as_json(self) -> dict[str, Any]:
        """Plain data for JSON, without the map."""
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}
        del plain["heat"]
        return {**plain, "faithfulness": self.faithfulness._asdict()}


def explain(images: Sequence[str | Path], model: str, **fields: Any) -> list[Explanation]:
    """Explain the answers of an exported model for images; write an array for each map, and a
    picture for each target.

    Args:
        images: files, folders or patterns.
        model: name of the model under `exports`.
        fields: the other fields of `ExplainOptions`.

    Raises:
        DfvtError: an image or the model cannot be used, or an answer has nothing to explain.
    """
    return explain_with(ExplainOptions(images=tuple(map(str, images)), model=model, **fields))


def explain_with(options: ExplainOptions) -> list[Explanation]:
    """`explain` with its options as one object."""
    options.check_files()
    paths = image_paths(options.images)
    for path in paths:
        _decoded(path)
    artifact = open_artifact(options.exports / options.model)
    task: TaskExplanation = entry("explaining", artifact.manifest.task, "EXPLANATION")
    labels = artifact.manifest.labels
    classes = [_class_id(name, labels) for name in options.classes]
    found: list[Explanation] = []
    with ExitStack() as stack, steps_bar() as bar:
        answers = bar.add_task("answers", total=None)
        sources = open_sources(artifact, task, options, stack, lambda: bar.advance(answers))
        for path in paths:
            bar.update(answers, description=f"{path.name}: answers")
            image = _decoded(path)
            targets = task.targets(
                sources[0].ask(image), labels, classes, options.detections, options.top
            )
            if not targets:
                raise BadInput(f"{path}: {options.model} answers nothing that could be explained")
            stem = _free_stem(path.stem, {each.picture.name for each in found})
            base = options.output / f"{stem}.{options.method}"
            found += _explained(task, sources, str(path), image, targets, base)
    return found


def _explained(
    task: TaskExplanation,
    sources: Sequence[Source],
    path: str,
    image: Image.Image,
    targets: Sequence[Target],
    base: Path,
) -> Iterator[Explanation]:
    """Make, judge and write the maps of one image; the names of the files begin with `base`."""
    seen = task.seen(*image.size)
    maps = [source.maps(image, targets) for source in sources]
    random = {of: of(image, targets) for of in {source.random for source in sources}}
    for i, target in enumerate(targets):
        slug = re.sub(r"[^A-Za-z0-9]+", "-", target.name).strip("-")
        picture = base.with_name(f"{base.name}.{slug}.png")
        of_target = []
        for source, heats in zip(sources, maps, strict=True):
            array = picture.with_suffix(f".{source.name.replace(' ', '-')}.npy")
            with staged(array) as temporary, temporary.open("wb") as file:
                np.save(file, heats[i])
            of_target.append(
                Explanation(
                    path,
                    target.name,
                    target.class_id,
                    source.name,
                    heats[i],
                    faithfulness(task, source.ask, image, target, heats[i]),
                    correlation(heats[i], random[source.random][i], seen),
                    correlation(heats[i], maps[0][i], seen),
                    picture,
                    array,
                )
            )
        captions = [f"{x.source}\nfaithfulness {x.faithfulness.figure:.2f}" for x in of_target]
        sheet = draw_maps(image, target, captions, [each.heat for each in of_target])
        with staged(picture) as temporary:
            sheet.save(temporary, "PNG")
        yield from of_target


def _free_stem(stem: str, names: Collection[str]) -> str:
    """The stem of an image's files, with a number where images of several folders share it."""
    number, free = 1, stem
    while any(name.startswith(f"{free}.") for name in names):
        number += 1
        free = f"{stem}-{number}"
    return free


def _class_id(name: str, labels: Sequence[str]) -> int:
    """The id of a class that is given by its name or its id."""
    if name in labels:
        return labels.index(name)
    if name.isdecimal() and int(name) < len(labels):
        return int(name)
    shown = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
    raise BadInput(f"--class {name!r} is none of the model's {len(labels)} classes: {shown}")


def _decoded(path: Path) -> Image.Image:
    try:
        return decode_image(read_image(path))
    except ImageError as error:
        raise BadInput(f"{path}: {error}") from error
