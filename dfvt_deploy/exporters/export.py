"""`export`: a checkpoint to a checked ONNX file with its manifest."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import onnx
from torch import nn

from ..artifact import Artifact, file_record, model_command, write_artifact
from ..compare import Comparison, comparison_of
from ..compare.agreement import checks
from ..data import labels_for
from ..errors import BadInput, CheckpointError, StageFailed
from ..files import sha256_of, staging_directory
from ..manifest import Check, CheckpointRecord, GraphRecord, Manifest
from ..models.build import build_model, count_macs, count_parameters, fill_untrained
from ..models.checkpoint import (
    CheckpointInfo,
    inspect_checkpoint,
    load_backbone_checkpoint,
    load_checkpoint,
)
from ..models.published import published_checkpoint
from ..models.task_model import model_of
from ..names import ONNX_FILES
from ..onnx_model import count_operators, tensor_specs
from ..options import from_fields
from ..progress import note, spinner, warn
from ..provenance import now, timed, tool_versions
from ..runners import Tensors
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..runners.openvino import OpenVINORunner
from ..runners.pytorch import PytorchRunner
from ..types import Precision, Task, Variant
from .options import PUBLISHED, ExportOptions
from .recipe import onnx_from_graph, recipe_of, simplify

_TOOLS = ("dfvt-deploy", "torch", "onnx", "onnxscript", "onnxsim", "numpy")


@from_fields(ExportOptions, "variant", "task")
def export(options: ExportOptions) -> Artifact:
    """Export one model to `<output>/<name>/model.onnx` with its `manifest.json`. The file is
    compared with PyTorch in onnxruntime before it takes its place, and in OpenVINO if that is
    installed; if OpenVINO alone disagrees, a warning says so. The earlier export stays as it was
    when anything fails. Raises BadInput where an option or the checkpoint cannot be used,
    StageFailed where a step failed, or onnxruntime does not agree with PyTorch."""
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
            preprocessing=recipe.preprocessing_record(options),
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
        manifest = manifest.model_copy(update={"checks": checked, "seconds": seconds})
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


def model_with_weights(options: ExportOptions) -> tuple[nn.Module, CheckpointRecord]:
    """Build the model of the options and fill it from its checkpoint, or with untrained weights.
    Raises BadInput where the options or the checkpoint do not fit the model."""
    variant, task = Variant(options.variant), Task(options.task)
    checkpoint = options.checkpoint or options.backbone_checkpoint
    if checkpoint is None:
        warn("no --checkpoint: the weights are untrained, so what the model answers means nothing")
        model = build_model(task, variant, options.num_classes, options.nms)
        fill_untrained(model)
        return model, CheckpointRecord(source="untrained")
    published = checkpoint == PUBLISHED
    if published:
        path = published_checkpoint(task if options.checkpoint else Task.CLASSIFICATION, variant)
    elif checkpoint.isprintable():  # the manifest and the command that it records name the file
        path = Path(checkpoint)
    else:
        raise CheckpointError(
            f"checkpoint {checkpoint!r} has a character in its path that cannot be shown; rename it"
        )
    if options.checkpoint:
        found = inspect_checkpoint(path, options.weights)
        _require_fit(options, path, found)
        model = build_model(task, variant, found.num_classes, options.nms)
        load_checkpoint(model, path, options.weights)
    else:
        model = build_model(task, variant, options.num_classes, options.nms)
        fill_untrained(model)
        found = load_backbone_checkpoint(model, path, options.weights)
        warn(f"the {task} head is untrained, so what the model answers means nothing")
    if found.note:
        note(found.note)
    return model, CheckpointRecord(
        source="backbone" if not options.checkpoint else "published" if published else "file",
        file=path.name if published else checkpoint,
        layout=found.layout,
        weights=options.weights,
        sha256=sha256_of(path),
    )


def _require_fit(options: ExportOptions, path: Path, found: CheckpointInfo) -> None:
    """Raise CheckpointError for a checkpoint of another model than the options name."""
    variant, task = Variant(options.variant), Task(options.task)
    if (found.task, found.variant) != (task, variant):
        hint = f"use --task {found.task} --variant {found.variant}"
        if model_of(found.task).is_backbone and found.variant is variant:
            hint += f", or --backbone-checkpoint for a {task} model with an untrained head"
        raise CheckpointError(f"{path} is {found}; asked for {variant.upper()} {task}: {hint}")
    if options.num_classes not in (None, found.num_classes):
        raise CheckpointError(
            f"{path} has {found.num_classes} classes, --num-classes is {options.num_classes}; "
            "leave it out"
        )
