"""What maps are made from: layers of the PyTorch model, or whatever answers occluded images."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from PIL import Image

from ..artifact import Artifact
from ..models.build import build_model, fill_untrained, model_from_manifest
from ..pipeline import Pipeline
from ..runners import Runner
from ..runners.network import network_file, open_network
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..runners.pytorch import PytorchRunner
from ..runners.triton import TritonRunner
from ..serving.tasks import served_task
from ..tasks.images import MOST_PIXELS
from ..types import Precision
from .gradcam import grad_cam_maps
from .occlusion import ask_server, occlusion_maps
from .options import ExplainOptions
from .task_explanation import Answers, Ask, Heat, Target, TaskExplanation

#: The seed of the random weights that maps are compared with; untrained models have 0.
_OTHER_SEED = 1

Maps: TypeAlias = Callable[[Image.Image, Sequence[Target]], list[Heat]]


@dataclass(frozen=True)
class Source:
    """A layer or a runtime: its answers, its maps, and the maps of a model of random weights."""

    name: str
    ask: Ask
    maps: Maps
    random: Maps


def open_sources(
    artifact: Artifact,
    task: TaskExplanation,
    options: ExplainOptions,
    stack: ExitStack,
    asked: Callable[[], object],
) -> list[Source]:
    """The sources that the options name; `stack` closes them.

    Args:
        asked: called after each answer, for the progress.

    Raises:
        DfvtError: the checkpoint or the file cannot be used.
    """
    manifest = artifact.manifest
    served = served_task(manifest.task)
    answering = served.answer_options(manifest, manifest.num_classes, MOST_PIXELS)
    pipeline = Pipeline(manifest, answering)
    other = build_model(manifest.task, manifest.variant, manifest.num_classes, manifest.nms)
    fill_untrained(other, _OTHER_SEED)

    def asking(answer: Ask) -> Ask:
        def ask(image: Image.Image) -> Answers:
            answers = answer(image)
            asked()
            return answers

        return ask

    def here(runner: Runner) -> Ask:
        return asking(partial(_ask_here, pipeline, stack.enter_context(runner)))

    if options.method == "grad-cam++":
        model = model_from_manifest(manifest, options.checkpoint)
        ask = here(PytorchRunner(manifest, model))
        own, random = (partial(grad_cam_maps, task, pipeline, each) for each in (model, other))
        layers = options.layers or (task.layer,)
        return [Source(x, ask, partial(own, x), partial(random, x)) for x in layers]
    sides = {"fp32 onnxruntime": here(OnnxRuntimeRunner(artifact.onnx_path()))}
    if options.url is not None:
        triton = stack.enter_context(TritonRunner(manifest.name, options.url, options.protocol))
        sides[f"served {options.protocol}"] = asking(partial(ask_server, triton))
    elif (options.precision, options.runtime) != (Precision.FP32, "onnxruntime"):
        of_side = options.runtime, options.precision
        path = network_file(artifact, *of_side)
        sides[f"{options.precision} {options.runtime}"] = here(open_network(path, *of_side))
    maps = partial(occlusion_maps, task, options.grid)
    random_maps = partial(maps, here(PytorchRunner(manifest, other)))
    return [Source(name, ask, partial(maps, ask), random_maps) for name, ask in sides.items()]


def _ask_here(pipeline: Pipeline, runner: Runner, image: Image.Image) -> Answers:
    inputs = pipeline.prepare(image)
    answers = pipeline.postprocess(inputs, runner.infer(pipeline.feed(inputs)))
    return {name: value[0] for name, value in answers.items()}
