"""The PyTorch model of an export with its weights, and the record of where they came from."""

from pathlib import Path

from torch import nn

from ..errors import CheckpointError
from ..files import sha256_of
from ..manifest import CheckpointRecord
from ..models.build import build_model, fill_untrained
from ..models.checkpoint import inspect_checkpoint, load_backbone_checkpoint, load_checkpoint
from ..models.published import published_checkpoint
from ..models.task_model import model_of
from ..progress import note, warn
from ..types import Task, Variant, Weights
from .options import PUBLISHED, ExportOptions


def model_with_weights(options: ExportOptions) -> tuple[nn.Module, CheckpointRecord]:
    """Build the model of the options and fill it from its checkpoint, or with untrained weights.
    Raises BadInput where the options or the checkpoint do not fit the model."""
    if options.checkpoint is None:
        return _untrained(options)
    variant, task = Variant(options.variant), Task(options.task)
    path = _checkpoint_path(options.checkpoint, task, variant)
    found = inspect_checkpoint(path, options.weights)
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
    model = build_model(task, variant, found.num_classes, options.nms)
    load_checkpoint(model, path, options.weights)
    if found.note:
        note(found.note)
    return model, _record(options.checkpoint, path, found.layout, options.weights)


def _untrained(options: ExportOptions) -> tuple[nn.Module, CheckpointRecord]:
    variant, task = Variant(options.variant), Task(options.task)
    backbone = options.backbone_checkpoint
    model = build_model(task, variant, options.num_classes, options.nms)
    fill_untrained(model)
    if backbone is None:
        warn("no --checkpoint: the weights are untrained, so what the model answers means nothing")
        return model, CheckpointRecord(source="untrained")
    path = _checkpoint_path(backbone, Task.CLASSIFICATION, variant)
    found = load_backbone_checkpoint(model, path, options.weights)
    if found.note:
        note(found.note)
    warn(f"the {task} head is untrained, so what the model answers means nothing")
    record = _record(backbone, path, found.layout, options.weights)
    return model, record.model_copy(update={"source": "backbone"})


def _checkpoint_path(checkpoint: str, task: Task, variant: Variant) -> Path:
    if checkpoint == PUBLISHED:
        return published_checkpoint(task, variant)
    path = Path(checkpoint)
    if not checkpoint.isprintable():  # the manifest and the command that it records name the file
        raise CheckpointError(
            f"checkpoint {str(path)!r} has a character in its path that cannot be shown; rename it"
        )
    return path


def _record(checkpoint: str, path: Path, layout: str, weights: Weights) -> CheckpointRecord:
    return CheckpointRecord(
        source="published" if checkpoint == PUBLISHED else "file",
        file=path.name if checkpoint == PUBLISHED else checkpoint,
        layout=layout,
        weights=weights,
        sha256=sha256_of(path),
    )
