"""Real images as a network's inputs: what a conversion is calibrated on and compared with."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper
from PIL import Image

from ..data import SAMPLES
from ..errors import BadInput
from ..files import digest_of, sha256_of
from ..image_files import SUFFIXES, find_images, spread
from ..manifest import Manifest
from ..pipeline import Pipeline
from ..runners import Tensors
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..tasks.dense import next_multiple, resized_size
from ..tasks.images import ImageError, decode_image
from .graph_tensors import GraphTensors, graph_tensors

#: The most images that a converted file is compared on: of a task of one size, and of a dense
#: task, whose images are large and full of answers.
_COMPARED, _COMPARED_DENSE = 64, 8

#: Parts of each sample image: the whole, then its corners. Left, top, right and bottom, as shares
#: of the image's width and height.
_PARTS = (
    (0.0, 0.0, 1.0, 1.0),
    (0.0, 0.0, 0.6, 0.6),
    (0.4, 0.0, 1.0, 0.6),
    (0.0, 0.4, 0.6, 1.0),
    (0.4, 0.4, 1.0, 1.0),
)


@dataclass(frozen=True)
class View:
    """A part of an image file; by default all of it."""

    file: Path
    part: tuple[float, float, float, float] = _PARTS[0]

    def decoded(self) -> Image.Image:
        image = decode_image(self.file.read_bytes())
        left, top, right, bottom = np.array(self.part) * (image.size * 2)
        return image.crop((int(left), int(top), round(right), round(bottom)))


@dataclass(frozen=True)
class CalibrationImages:
    """Images as feeds of one exported graph, each prepared when the iteration reaches it. `source`
    is the folder's name, or `samples`; `max_side` the longest side of the canvas of a model that
    takes any size, in pixels."""

    source: str
    pipeline: Pipeline
    views: Sequence[View]
    max_side: int

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[Tensors]:
        """Feeds of one image each; BadInput for an image that the model cannot take."""
        for view in self.views:
            try:
                image = view.decoded()
                inputs = self.pipeline.prepare(image, self._canvas(image))
            except ImageError as error:
                raise BadInput(f"{view.file}: {error}") from error
            yield self.pipeline.feed(inputs)

    def compared(self) -> "CalibrationImages":
        """The images that a converted file is compared on, evenly spread."""
        most = _COMPARED_DENSE if is_dense(self.pipeline.manifest) else _COMPARED
        return replace(self, views=spread(self.views, most))

    def digest(self) -> str:
        """SHA-256 of the images' bytes, their parts and the kind of input made of them."""
        manifest = self.pipeline.manifest
        views = [(sha256_of(view.file), view.part) for view in self.views]
        return digest_of([manifest.task, manifest.input_kind, views])

    def _canvas(self, image: Image.Image) -> tuple[int, int] | None:
        """Height and width that an image is padded to; None for a model of one size."""
        if self.pipeline.has_fixed_size:
            return None
        task = self.pipeline.manifest.task
        limits = task.entry("tasks", "LONG_SIDE"), task.entry("tasks", "SHORT_SIDE")
        most = (self.max_side, self.max_side)
        height, width = resized_size(image.height, image.width, *limits, most)
        return next_multiple(height), next_multiple(width)


def calibration_images(
    manifest: Manifest, folder: Path | None, *, images: int, max_side: int
) -> CalibrationImages:
    """At most so many images of a folder and its subfolders, evenly spread over the files in the
    order of their names, or parts of the package's samples. `max_side`, a multiple of 32, is the
    longest side of a dense model's canvas in pixels. Raises BadInput where there is no such folder,
    or no image in it."""
    if folder is None:
        views = [View(file, part) for part in _PARTS for file in sorted(SAMPLES.glob("*.jpg"))]
        source = "samples"
    else:
        if not folder.is_dir():
            raise BadInput(f"--calibration {folder} is not a folder")
        views = [View(file) for file in find_images(folder)]
        if not views:
            raise BadInput(f"--calibration {folder} holds no image ({', '.join(SUFFIXES)})")
        source = folder.resolve().name
    return CalibrationImages(source, Pipeline(manifest), spread(views, images), max_side)


def is_dense(manifest: Manifest) -> bool:
    """Whether the model's images have sizes of their own within a padded canvas."""
    return any(spec.name == "image_sizes" for spec in manifest.inputs)


#: The numbers that are taken of a tensor. A maximum may pass over a NaN, a sum does not.
_PROBES = ("ReduceMax", "ReduceMin", "ReduceL1")


def value_ranges(model: ModelProto, feeds: Iterable[Tensors]) -> dict[str, float]:
    """The largest absolute value of every floating-point tensor over the feeds, by name, inputs and
    weights left out. It is infinite for a tensor that had a value that is not finite. Raises
    StageFailed where onnxruntime cannot run the graph."""
    graph = graph_tensors(model)
    largest = dict.fromkeys(graph.float_results(), 0.0)
    probed = _probed(model, graph, largest)
    with OnnxRuntimeRunner(probed.SerializeToString(), spare=True) as runner:
        for feed in feeds:
            found = runner.infer(feed)
            for name, before in largest.items():
                *ends, total = (found[f"{name}/{probe}"] for probe in _PROBES)
                value = float(np.abs(ends).max()) if np.isfinite(total) else math.inf
                largest[name] = max(before, value)
    return largest


def _probed(model: ModelProto, graph: GraphTensors, names: Iterable[str]) -> ModelProto:
    """The model with three numbers of each tensor as its only outputs."""
    probed = copy.deepcopy(model)
    del probed.graph.output[:]
    del probed.graph.value_info[:]
    for name in names:
        source = name
        if graph.types[name] != TensorProto.FLOAT:
            source = f"{name}/float"
            cast = helper.make_node("Cast", [name], [source], to=TensorProto.FLOAT)
            probed.graph.node.append(cast)
        for probe in _PROBES:
            result = f"{name}/{probe}"
            probed.graph.node.append(helper.make_node(probe, [source], [result], keepdims=0))
            value = helper.make_tensor_value_info(result, TensorProto.FLOAT, [])
            probed.graph.output.append(value)
    return probed
