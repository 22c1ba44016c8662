"""`export`: a checkpoint to a checked ONNX file with its manifest."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from ..artifact import Artifact, file_record, model_command, write_artifact
from ..compare import comparison_of
from ..compare.limits import checks
from ..compare.task_comparison import Comparison
from ..data import labels_for
from ..errors import BadInput, StageFailed
from ..files import staging_directory
from ..manifest import Check, GraphRecord, Manifest
from ..models.build import count_parameters
from ..models.table import count_macs
from ..names import ONNX_FILES
from ..onnx_model import count_operators, tensor_specs
from ..progress import spinner, warn
from ..provenance import now, timed, tool_versions
from ..runners import Tensors
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..runners.openvino import OpenVINORunner
from ..runners.pytorch import PytorchRunner
from ..types import Precision, Task, Variant
from .options import ExportOptions
from .recipe import recipe_of
from .to_onnx import onnx_from_graph, simplify
from .weights import model_with_weights

_TOOLS = ("dfvt-deploy", "torch", "onnx", "onnxscript", "onnxsim", "numpy")


def export(
    variant: Variant | str, task: Task | str = Task.CLASSIFICATION, **fields: Any
) -> Artifact:
    """Export one model to `<output>/<name>/model.onnx` with its `manifest.json`; `fields` are the
    other fields of `ExportOptions`.

    The file is compared with PyTorch in onnxruntime before it takes its place, and in OpenVINO if
    that is installed; if OpenVINO alone disagrees, a warning says so. The earlier export stays as
    it was when anything fails. Raises BadInput where an option or the checkpoint cannot be used,
    StageFailed where a step failed, or onnxruntime does not agree with PyTorch.
    """
    fields |= {"variant": variant, "task": task}
    return export_with(ExportOptions(**fields))


def export_with(options: ExportOptions) -> Artifact:
    """Export as `export` does, with the options as one object of one variant and one task."""
    if len(options.models()) > 1:
        raise BadInput("export makes one model; give one variant and one task")
    options.check_files()
    recipe, name = recipe_of(Task(options.task)), options.model_name
    recipe.refuse(options)
    seconds: dict[str, float] = {}

    with timed("load", seconds):
        model, checkpoint = model_with_weights(options)
        classes = int(model.num_classes)  # type: ignore[arg-type]
        labels = labels_for(recipe.task, classes, options.labels)
    with timed("export", seconds), spinner(f"{name}: exporting with torch.onnx"):
        exported = onnx_from_graph(recipe.graph(model, options), options.opset)
    with timed("simplify", seconds), spinner(f"{name}: simplifying with onnxsim"):
        simplified = simplify(exported)

    directory = options.output / name
    with staging_directory(directory) as staging:
        file = staging / ONNX_FILES[Precision.FP32]
        onnx.save_model(simplified, file)
        command = options.command_line()
        manifest = Manifest(
            name=name,
            task=recipe.task,
            variant=Variant(options.variant),
            num_classes=classes,
            parameters=count_parameters(model),
            macs=sum(count_macs(recipe.task, Variant(options.variant), classes).values()),
            created=now(),
            command=command,
            versions=tool_versions(*_TOOLS),
            checkpoint=checkpoint,
            input_kind=options.input_kind,
            nms=getattr(model, "nms", None),
            inputs=tensor_specs(simplified.graph.input),
            outputs=tensor_specs(simplified.graph.output),
            preprocessing=recipe.preprocessing(options),
            labels=labels,
            graph=GraphRecord(
                opset=options.opset,
                ir_version=simplified.ir_version,
                operators_before=count_operators(exported),
                operators=count_operators(simplified),
            ),
            checks=(),
            seconds={},
            files={file.name: file_record(file, Precision.FP32, command)},
        )
        with timed("check", seconds), spinner(f"{name}: comparing with PyTorch"):
            checked = _checks(manifest, directory, model, recipe.checked_feeds(options), file)
        for check in checked:
            if not check.passed:
                raise StageFailed(f"{check}; {directory / file.name} was not written")
        rounded = {step: round(value, 2) for step, value in seconds.items()}
        manifest = manifest.model_copy(update={"checks": checked, "seconds": rounded})
        return write_artifact(directory, manifest, {file.name: file})


def _checks(
    manifest: Manifest,
    directory: Path,
    model: nn.Module,
    feeds: Sequence[Tensors],
    file: Path,
) -> tuple[Check, ...]:
    """Compare the exported file with the model in PyTorch, in every runtime that is installed. Only
    onnxruntime's checks can fail; OpenVINO's are left out, with a warning, where they do."""
    with PytorchRunner(manifest, model) as reference:
        expected = Comparison(manifest.task, feeds, reference)
    comparison = comparison_of(manifest.task)
    limits = comparison.breakage_limits(Precision.FP32)
    with OnnxRuntimeRunner(file) as runner:
        agreement = expected.agreement(runner)
    images = f"{agreement.images} images"
    found = checks(agreement, limits, f"onnxruntime against PyTorch, {images}")
    if not agreement.shares[comparison.share][1]:
        warn(
            f"{manifest.name} finds nothing in the images of export's check, so the check says "
            f"little; run: {model_command(directory, 'validate')}"
        )
    if not find_spec("openvino"):
        return found
    with OpenVINORunner(file) as other:
        there = checks(expected.agreement(other), limits, f"OpenVINO against PyTorch, {images}")
    if failed := [check for check in there if not check.passed]:
        # Another runtime's fault does not make the file wrong in the one that serves it.
        warn(f"{failed[0]}; serve {manifest.name} with another backend than openvino")
        return found
    return (*found, *there)
