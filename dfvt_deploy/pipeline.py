"""The way of one image through a model: encoded image, network inputs, network outputs, answers.

    pipeline = Pipeline(artifact.manifest)
    inputs = pipeline.read(encoded)
    outputs = runner.infer(pipeline.feed(inputs))
    answers = pipeline.postprocess(inputs, outputs)

Pre- and postprocessing are those of `tasks`, which a served model runs too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from .manifest import Manifest
from .runners import Tensors
from .tasks.images import decode_image, normalise
from .types import InputKind


@dataclass(frozen=True)
class Pipeline:
    """Pre- and postprocessing of one exported model, a batch of one image at a time.
    `answer_options` are keyword arguments of the task's postprocessing, such as `k`, in place of
    its defaults; `fast_decode` is that of `populate`."""

    manifest: Manifest
    answer_options: Mapping[str, Any] = field(default_factory=dict)
    fast_decode: bool = False

    def read(self, encoded: bytes) -> dict[str, NDArray[Any]]:
        """Decode an image file and preprocess it, see `prepare`; ImageError where it cannot be."""
        canvas = self.manifest.preprocessing.canvas
        options = {"canvas": canvas} if canvas else {}
        size = partial(self.manifest.task.entry("tasks", "resized_size"), **options)
        return self.prepare(decode_image(encoded, resized_size=size if self.fast_decode else None))

    def prepare(
        self, image: Image.Image, canvas: tuple[int, int] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Preprocess an RGB image of any size to the inputs of the exported graph (`images` uint8
        NHWC or normalised float32 NCHW, a dense model's `image_sizes`), and what postprocessing
        needs beside the network's outputs (a dense model's `original_sizes`). `canvas` is the
        height and width that a dense model's image is padded to, multiples of 32; by default those
        of a static export, else the image's own next multiples. Raises tasks.images.ImageError
        where the image has a size that the model cannot take."""
        canvas = canvas or self.manifest.preprocessing.canvas
        options = {"canvas": canvas} if canvas else {}
        preprocess_batch = self.manifest.task.entry("tasks", "preprocess_batch")
        inputs: dict[str, NDArray[Any]] = preprocess_batch([image], **options)
        if self.manifest.input_kind is InputKind.FLOAT32:
            inputs["images"] = normalise(inputs["images"])
        return inputs

    def feed(self, inputs: Tensors) -> dict[str, NDArray[Any]]:
        """Those of the prepared tensors that the exported graph takes."""
        return {spec.name: inputs[spec.name] for spec in self.manifest.inputs}

    def postprocess(self, inputs: Tensors, outputs: Tensors) -> dict[str, NDArray[Any]]:
        """The answers of the served model, made from the network's outputs for prepared tensors;
        names, shapes and types are those of the Triton ensemble's outputs."""
        sizes = {name: value for name, value in inputs.items() if name != "images"}
        postprocess_batch = self.manifest.task.entry("tasks", "postprocess_batch")
        given = {**outputs, **sizes}
        return postprocess_batch(given, self.manifest.labels, **self.answer_options)

    @property
    def has_fixed_size(self) -> bool:
        """Whether every image becomes a tensor of the same height and width."""
        (images,) = (spec for spec in self.manifest.inputs if spec.name == "images")
        return all(isinstance(side, int) for side in images.shape[1:])
