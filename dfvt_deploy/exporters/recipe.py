"""What a task says about its export, one `ExportRecipe` in its file of this package; and PyTorch to
ONNX, simplified and checked."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import BadInput, StageFailed
from ..manifest import Preprocessing
from ..models.task_model import model_of
from ..onnx_model import MAX_IR_VERSION, strip
from ..options import Size
from ..quiet import quiet
from ..runners import Tensors
from ..tasks.dense import SIZE_MULTIPLE
from ..tasks.images import MEAN, STD, normalise
from ..types import InputKind, Task
from .options import DEFAULT_OPSET, MIN_OPSET, ExportOptions

#: Symbolic dimensions of inputs or outputs by their name: axis to name.
DynamicAxes = Mapping[str, Mapping[int, str]]

#: Opsets of torch's older exporter, which is used for these.
_TORCHSCRIPT_OPSETS = range(MIN_OPSET, 21)

#: Largest symbolic side in its multiples; torch.export needs a bound.
_MAX_STEPS = 2048

#: Canvas at which a graph with a dynamic size is traced.
_TRACED = (128, 192)

#: The first image of a batch is padded by these pixels at the bottom and the right.
_PADDING = (5, 17)


def random_images(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    """Make images of smooth colours with noise, uint8 RGB (N, H, W, 3), the same at every call."""
    rng = np.random.default_rng([batch, height, width])
    coarse = rng.integers(0, 256, (batch, 8, 8, 3)).astype(np.float32)
    rows = np.arange(height) * 8 // height
    cols = np.arange(width) * 8 // width
    images = coarse[:, rows][:, :, cols] + rng.normal(0, 20, (batch, height, width, 3))
    return images.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class ExportRecipe:
    """How the models of one task, whose `TaskModel` makes the exported module, are exported.

    checked: batch size, height and width of the inputs on which an export of dynamic size must
        agree with PyTorch.
    dynamic_outputs: the symbolic dimensions of the outputs.
    preprocessing: the fields of the manifest's `Preprocessing` that are the task's own.
    size: the only height and width that the network takes, or None where they are dynamic. A model
        with dynamic sizes also takes `image_sizes`.
    images: makes example images, uint8 RGB (N, H, W, 3), from a batch size, a height and a width.
    loops: whether the graph has loops, which TorchScript compiles and dynamo would unroll.
    refused: options that the task does not have, each with the reason of `Options.refuse`.
    """

    task: Task
    checked: tuple[tuple[int, int, int], ...]
    dynamic_outputs: Callable[[ExportOptions], DynamicAxes]
    preprocessing: Mapping[str, Any]
    size: Size | None = None
    images: Callable[[int, int, int], NDArray[np.uint8]] = random_images
    loops: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)

    def refuse(self, options: ExportOptions) -> None:
        """Raise BadInput for an option that the task does not have, or a value it cannot take."""
        opsets = _TORCHSCRIPT_OPSETS
        if self.loops and options.opset not in opsets:
            limits = f"outside {opsets[0]}..{opsets[-1]} for this model"
            raise BadInput(f"opset {options.opset} is {limits}")
        for name, reason in self.refused.items():
            options.refuse(reason, name)
        if options.static and any(s < SIZE_MULTIPLE or s % SIZE_MULTIPLE for s in options.static):
            fit = [max(1, round(side / SIZE_MULTIPLE)) * SIZE_MULTIPLE for side in options.static]
            raise BadInput(
                "--static {}x{} is not in multiples of {}; the nearest is {}x{}".format(
                    *options.static, SIZE_MULTIPLE, *fit
                )
            )

    def graph(self, model: nn.Module, options: ExportOptions) -> "ExportableGraph":
        """Put the module that is exported together, with example inputs."""
        size = self.size or options.static
        images, sizes = {0: "batch"}, {0: "batch"}
        if size is None:
            rows, cols = (1, 2) if options.input_kind is InputKind.UINT8 else (2, 3)
            images |= {rows: "height", cols: "width"}
        feed = self._feed(2, *(size or _TRACED), options)
        module = model_of(self.task).graph(model, options.input_kind, options.logits)
        return ExportableGraph(
            module=module,
            inputs={name: torch.from_numpy(value) for name, value in feed.items()},
            dynamic={name: images if name == "images" else sizes for name in feed},
            dynamic_outputs=self.dynamic_outputs(options),
        )

    def preprocessing_record(self, options: ExportOptions) -> Preprocessing:
        """How `tasks` prepares an image for the exported graph, for the manifest."""
        return Preprocessing(
            **self.preprocessing,
            canvas=options.static,
            mean=MEAN,
            std=STD,
            normalised_in_graph=options.input_kind is InputKind.UINT8,
        )

    def checked_feeds(self, options: ExportOptions) -> list[Tensors]:
        """Make the inputs on which the exported file must agree with PyTorch."""
        fixed = [(batch, *options.static) for batch in (1, 2)] if options.static else self.checked
        return [self._feed(*shape, options) for shape in fixed]

    def _feed(
        self, batch: int, height: int, width: int, options: ExportOptions
    ) -> dict[str, NDArray[Any]]:
        feed = {"images": as_input(self.images(batch, height, width), options.input_kind)}
        if self.size is not None:
            return feed
        sizes = np.tile(np.array([height, width], np.int64), (batch, 1))
        sizes[0] -= _PADDING
        return {**feed, "image_sizes": sizes}


def recipe_of(task: Task) -> ExportRecipe:
    return task.entry("exporters", "RECIPE")


def dense_preprocessing(long_side: int, short_side: int) -> dict[str, str]:
    """What a dense task's recipe says of its preprocessing (`tasks.dense.resize_and_pad`)."""
    return {
        "resize": f"into {long_side}x{short_side}, in proportion",
        "interpolation": "OpenCV INTER_LINEAR",
        "padding": f"right and bottom to a multiple of {SIZE_MULTIPLE}",
    }


def as_input(images: NDArray[np.uint8], kind: InputKind) -> NDArray[Any]:
    """Turn uint8 RGB (N, H, W, 3) into the `images` that a graph of this kind takes."""
    return images if kind is InputKind.UINT8 else normalise(images)


@dataclass(frozen=True)
class ExportableGraph:
    """A module with example inputs by name, of a batch larger than 1, since torch.export fixes a
    batch of 1. Symbolic dimensions of inputs and outputs are named by axis; `height` and `width`
    are multiples of 32."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: DynamicAxes
    dynamic_outputs: DynamicAxes


def onnx_from_graph(graph: ExportableGraph, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Export a module with torch.onnx, unsimplified, by the exporter that the opset needs
    (docs/design.md says why). Raises StageFailed where torch cannot export it in that opset."""
    dynamo = opset not in _TORCHSCRIPT_OPSETS
    try:
        with quiet(), torch.no_grad():
            model = _with_dynamo(graph, opset) if dynamo else _with_torchscript(graph, opset)
    except Exception as error:  # The exporters' exceptions have no common base.
        raise StageFailed(f"torch.onnx could not export at opset {opset}: {error}") from error
    found = next(entry.version for entry in model.opset_import if not entry.domain)
    if found != opset:  # dynamo keeps a newer opset where it cannot convert, without an error
        raise StageFailed(
            f"the exporter wrote opset {found} where {opset} was asked for; use --opset {found}"
        )
    return model


def _with_dynamo(graph: ExportableGraph, opset: int) -> onnx.ModelProto:
    names = {name for axes in graph.dynamic.values() for name in axes.values()}
    dims = {
        name: SIZE_MULTIPLE * torch.export.Dim(f"{name}_steps", min=1, max=_MAX_STEPS)
        if name in ("height", "width")
        else torch.export.Dim(name)
        for name in sorted(names)
    }
    program = torch.onnx.export(
        graph.module,
        tuple(graph.inputs.values()),
        input_names=list(graph.inputs),
        output_names=list(graph.dynamic_outputs),
        dynamic_shapes={
            name: {axis: dims[dim] for axis, dim in graph.dynamic[name].items()}
            for name in graph.inputs
        },
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for value in model.graph.input:  # The exporter wrote `32*height_steps`.
        for axis, name in graph.dynamic[value.name].items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    return model


def _with_torchscript(graph: ExportableGraph, opset: int) -> onnx.ModelProto:
    file = io.BytesIO()
    torch.onnx.export(
        graph.module,
        tuple(graph.inputs.values()),
        file,  # type: ignore[arg-type]  # the annotation knows paths only
        input_names=list(graph.inputs),
        output_names=list(graph.dynamic_outputs),
        dynamic_axes={**graph.dynamic, **graph.dynamic_outputs},
        opset_version=opset,
        dynamo=False,
    )
    return onnx.load_model_from_string(file.getvalue())


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold, fuse and infer shapes with onnxsim, check with ONNX, and strip the metadata. Raises
    StageFailed where onnxsim or the ONNX checker refuses the graph."""
    import onnxsim

    try:
        simplified, _ = onnxsim.simplify(model)
        simplified = onnx.shape_inference.infer_shapes(
            simplified, check_type=True, strict_mode=True, data_prop=True
        )
        simplified.ir_version = min(simplified.ir_version, MAX_IR_VERSION)
        strip(simplified)
        onnx.checker.check_model(simplified, full_check=True)
    except Exception as error:  # The exceptions of onnxsim and onnx have no common base.
        raise StageFailed(f"the exported graph did not pass onnxsim and onnx: {error}") from error
    return simplified
