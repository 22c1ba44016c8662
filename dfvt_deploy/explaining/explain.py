"""`explain`: heat maps of what an answer rests on, each with figures of how far to believe it."""

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from ..artifact import Artifact, open_artifact
from ..drawing import Answers
from ..errors import BadInput
from ..files import staged
from ..models.build import build_model, fill_untrained, model_from_manifest
from ..options import from_fields
from ..pipeline import Pipeline
from ..progress import steps_bar
from ..runners import Runner, network_file, open_network
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..runners.pytorch import PytorchRunner
from ..runners.triton import TritonRunner
from ..serving.client import image_paths, read_image
from ..serving.tasks import served_task
from ..tasks.images import MOST_PIXELS, ImageError, decode_image
from ..types import Precision
from . import heat_maps
from .gradcam import grad_cam_maps
from .options import ExplainOptions
from .task_explanation import Ask, Heat, Target, TaskExplanation

Maps: TypeAlias = Callable[[Image.Image, Sequence[Target]], list[Heat]]


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
    faithfulness: heat_maps.Faithfulness
    sanity: float
    agreement: float
    picture: Path
    array: Path

    def as_json(self) -> dict[str, Any]:
        """Plain data for JSON, without the map."""
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}
        del plain["heat"]
        return {**plain, "faithfulness": self.faithfulness._asdict()}


@from_fields(ExplainOptions, "images", "model")
def explain(options: ExplainOptions) -> list[Explanation]:
    """Explain the answers of an exported model for images; write an array for each map, and a
    picture for each target. Raises DfvtError where an image or the model cannot be used, or an
    answer has nothing to explain."""
    options.check_files()
    paths = image_paths(options.images)
    for path in paths:
        _decoded(path)
    artifact = open_artifact(options.exports / options.model)
    task: TaskExplanation = artifact.manifest.task.entry("explaining", "EXPLANATION")
    labels = artifact.manifest.labels
    classes = [_class_id(name, labels) for name in options.classes]
    found: list[Explanation] = []
    with ExitStack() as stack, steps_bar() as bar:
        answers = bar.add_task("answers", total=None)
        sources = open_sources(artifact, options, stack, lambda: bar.advance(answers))
        of_maps = (len(sources) + 1) * (options.grid**2 + 1) if options.method == "occlusion" else 0
        for left, path in zip(range(len(paths), 0, -1), paths, strict=True):
            bar.update(answers, description=f"{path.name}: answers")
            image = _decoded(path)
            targets = task.targets(
                sources[0].ask(image), labels, classes, options.detections, options.top
            )
            if not targets:
                raise BadInput(f"{path}: {options.model} answers nothing that could be explained")
            of_image = 1 + of_maps + len(sources) * len(targets) * heat_maps.FAITHFULNESS_ANSWERS
            bar.update(answers, total=bar.tasks[answers].completed - 1 + left * of_image)
            stem = _free_stem(path.stem, {each.picture.name for each in found})
            base = options.output / f"{stem}.{options.method}"
            found += _explained(task, sources, str(path), image, targets, base)
    return found


class Source(NamedTuple):
    """A layer or a runtime: its answers, its maps, and the maps of a model of random weights."""

    name: str
    ask: Ask
    maps: Maps
    random: Maps


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
            heat, array = heats[i], picture.with_suffix(f".{source.name.replace(' ', '-')}.npy")
            with staged(array) as temporary, temporary.open("wb") as file:
                np.save(file, heat)
            figures = (
                heat_maps.faithfulness(task, source.ask, image, target, heat),
                heat_maps.correlation(heat, random[source.random][i], seen),
                heat_maps.correlation(heat, maps[0][i], seen),
            )
            named = path, target.name, target.class_id, source.name, heat
            of_target.append(Explanation(*named, *figures, picture, array))
        captions = [f"{x.source}\nfaithfulness {x.faithfulness.figure:.2f}" for x in of_target]
        sheet = heat_maps.draw_maps(image, target, captions, [each.heat for each in of_target])
        with staged(picture) as temporary:
            sheet.save(temporary, "PNG")
        yield from of_target


def _free_stem(stem: str, names: Collection[str]) -> str:
    """The stem of an image's files, with a number where images of several folders share it."""
    stems = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(free for free in stems if not any(n.startswith(f"{free}.") for n in names))


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


def open_sources(
    artifact: Artifact, options: ExplainOptions, stack: ExitStack, asked: Callable[[], object]
) -> list[Source]:
    """The sources that the options name; `stack` closes them, and `asked` is called at each answer.
    Raises DfvtError where the checkpoint or the file cannot be used."""
    manifest = artifact.manifest
    task: TaskExplanation = manifest.task.entry("explaining", "EXPLANATION")
    served = served_task(manifest.task)
    answering = served.answer_options(manifest, manifest.num_classes, MOST_PIXELS)
    pipeline = Pipeline(manifest, answering)
    other = build_model(manifest.task, manifest.variant, manifest.num_classes, manifest.nms)
    fill_untrained(other, 1)  # untrained models have the seed 0

    def ask(runner: Runner, image: Image.Image) -> Answers:
        asked()
        if isinstance(runner, TritonRunner):
            return heat_maps.ask_server(runner, image)
        inputs = pipeline.prepare(image)
        answers = pipeline.postprocess(inputs, runner.infer(pipeline.feed(inputs)))
        return {name: value[0] for name, value in answers.items()}

    def opened(runner: Runner) -> Ask:
        return partial(ask, stack.enter_context(runner))

    if options.method == "grad-cam++":
        model = model_from_manifest(manifest, options.checkpoint)
        answer = opened(PytorchRunner(manifest, model))
        own, random = (partial(grad_cam_maps, task, pipeline, each) for each in (model, other))
        layers = options.layers or (task.layer,)
        return [Source(x, answer, partial(own, x), partial(random, x)) for x in layers]
    sides = {"fp32 onnxruntime": opened(OnnxRuntimeRunner(artifact.onnx_path()))}
    if options.url is not None:
        triton = TritonRunner(manifest.name, options.url, options.protocol)
        sides[f"served {options.protocol}"] = opened(triton)
    elif (options.precision, options.runtime) != (Precision.FP32, "onnxruntime"):
        of_side = options.runtime, options.precision
        path = network_file(artifact, *of_side)
        sides[f"{options.precision} {options.runtime}"] = opened(open_network(path, *of_side))
    maps = partial(heat_maps.occlusion_maps, task, options.grid)
    random_maps = partial(maps, opened(PytorchRunner(manifest, other)))
    return [Source(name, each, partial(maps, each), random_maps) for name, each in sides.items()]
