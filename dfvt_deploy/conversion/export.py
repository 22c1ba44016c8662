"""`export`: a checkpoint to a checked ONNX file with its manifest."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import nn

from ..artifact import (
    MANIFEST,
    ONNX_FILES,
    Artifact,
    CheckpointRecord,
    FileRecord,
    GraphRecord,
    Manifest,
    check_model_name,
    file_record,
    manifest_text,
    now,
    read_manifest,
)
from ..data import labels_for
from ..errors import ArtifactError, BadInput, CheckpointError, StageFailed
from ..files import sha256_of, staged
from ..models.build import build_model, count_parameters, fill_untrained
from ..models.checkpoint import (
    inspect_checkpoint,
    load_backbone_checkpoint,
    load_checkpoint,
)
from ..models.macs import count_macs
from ..models.mask_rcnn import MaskRCNN
from ..models.published import published_checkpoint
from ..progress import stage, warn
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..types import InputKind, Nms, NmsOperator, Precision, Task, Variant, model_name
from .provenance import timed, tool_versions
from .recipe import Canvas, GraphOptions
from .recipes import RECIPES
from .to_onnx import (
    DEFAULT_OPSET,
    count_operators,
    onnx_from_graph,
    simplify,
    tensor_specs,
)

PUBLISHED = "published"

_TOOLS = ("dfvt-deploy", "torch", "onnx", "onnxscript", "onnxsim", "numpy")


def export(
    variant: Variant | str,
    task: Task | str = Task.CLASSIFICATION,
    *,
    checkpoint: str | Path | None = None,
    output: str | Path = "exports",
    name: str | None = None,
    input_kind: InputKind | str = InputKind.UINT8,
    opset: int = DEFAULT_OPSET,
    num_classes: int | None = None,
    labels: str | Path | None = None,
    backbone_checkpoint: str | Path | None = None,
    static: Canvas | None = None,
    logits: bool = False,
    nms: Nms | str | None = None,
    nms_operator: NmsOperator | str = NmsOperator.LOOP,
) -> Artifact:
    """Export one model to `<output>/<name>/model.onnx` with its `manifest.json`.

    The file is run in onnxruntime against PyTorch before it takes its place; what was there
    before stays when anything fails.

    Args:
        checkpoint: a file, `published` for the authors' release, or None for deterministic
            untrained weights, whose answers mean nothing.
        name: folder and Triton model name; `dfvt_<variant>_<task>` by default.
        num_classes: must agree with the checkpoint; needed only without one.
        labels: file of class names, one a line.
        backbone_checkpoint: a classification checkpoint (or `published`) for the backbone of a
            dense model whose head stays untrained.
        static: fixed height and width of a dense model's input, multiples of 32.
        logits: segmentation's logits as a second output.
        nms: `hard` or `soft` of a detector; the published kind by default.
        nms_operator: `loop`, or `onnx` to compare with ONNX's own operator (hard NMS only).

    Raises:
        BadInput: an argument or the checkpoint cannot be used.
        StageFailed: a step failed, or onnxruntime does not agree with PyTorch.
    """
    variant, task = Variant(variant), Task(task)
    options = GraphOptions(InputKind(input_kind), static, logits, NmsOperator(nms_operator))
    name = name or model_name(task, variant)
    try:
        check_model_name(name)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if task not in RECIPES:
        raise BadInput(f"{task} models cannot be exported yet; tasks: {', '.join(RECIPES)}")
    recipe = RECIPES[task]
    recipe.refuse(options)
    seconds: dict[str, float] = {}

    with timed("load", seconds):
        model, record = _model_from(
            task, variant, checkpoint, backbone_checkpoint, num_classes, nms
        )
        classes = int(model.num_classes)  # type: ignore[arg-type]
        names = labels_for(task, classes, labels)
    with timed("export", seconds), stage(f"{name}: exporting with torch.onnx"):
        exported = onnx_from_graph(recipe.graph(model, options), opset)
    with timed("simplify", seconds), stage(f"{name}: simplifying with onnxsim"):
        operators_before = count_operators(exported)
        simplified = simplify(exported)

    directory = Path(output) / name
    file = directory / ONNX_FILES[Precision.FP32]
    with staged(file) as temporary, staged(directory / MANIFEST) as temporary_manifest:
        onnx.save_model(simplified, temporary)
        with (
            timed("check", seconds),
            stage(f"{name}: comparing with PyTorch"),
            OnnxRuntimeRunner(temporary) as runner,
        ):
            checks = recipe.checks(model, runner, options)
        for check in checks:
            if not check.passed:
                raise StageFailed(
                    f"{check.name} is {check.figure:.3g}, the limit is {check.limit:.3g}; "
                    f"{file} was not written"
                )
        manifest = Manifest(
            name=name,
            task=task,
            variant=variant,
            num_classes=classes,
            parameters=count_parameters(model),
            macs=_macs(task, variant, classes),
            created=now(),
            command=_command(variant, task, record, name, options, opset, num_classes, labels, nms),
            versions=tool_versions(*_TOOLS),
            checkpoint=record,
            input_kind=options.input_kind,
            nms=model.nms if isinstance(model, MaskRCNN) else None,
            inputs=tensor_specs(simplified.graph.input),
            outputs=tensor_specs(simplified.graph.output),
            preprocessing=recipe.preprocessing(options),
            labels=names,
            graph=GraphRecord(
                opset=opset,
                ir_version=simplified.ir_version,
                operators_before=operators_before,
                operators=count_operators(simplified),
            ),
            checks=checks,
            seconds={key: round(value, 2) for key, value in seconds.items()},
            files={file.name: file_record(temporary, Precision.FP32)} | _derived_files(directory),
        )
        # The manifest takes its place first: without its model.onnx it is noticed.
        temporary_manifest.write_text(manifest_text(manifest), encoding="utf-8")
    return Artifact(directory, manifest)


def _model_from(
    task: Task,
    variant: Variant,
    checkpoint: str | Path | None,
    backbone_checkpoint: str | Path | None,
    num_classes: int | None,
    nms: Nms | str | None,
) -> tuple[nn.Module, CheckpointRecord]:
    if checkpoint is None:
        return _untrained(task, variant, backbone_checkpoint, num_classes, nms)
    if backbone_checkpoint is not None:
        raise BadInput("--backbone-checkpoint is for models without --checkpoint")
    path = _checkpoint_path(checkpoint, task, variant)
    found = inspect_checkpoint(path)
    if (found.task, found.variant) != (task, variant):
        hint = f"use --task {found.task} --variant {found.variant}"
        if found.task is Task.CLASSIFICATION and found.variant is variant:
            hint += f", or --backbone-checkpoint for a {task} model with an untrained head"
        raise CheckpointError(f"{path} is {found}; asked for {variant.upper()} {task}: {hint}")
    if num_classes not in (None, found.num_classes):
        raise CheckpointError(
            f"{path} has {found.num_classes} classes, --num-classes is {num_classes}; leave it out"
        )
    model = build_model(task, variant, found.num_classes, nms)
    load_checkpoint(model, path)
    return model, _checkpoint_record(checkpoint, path, found.layout)


def _untrained(
    task: Task,
    variant: Variant,
    backbone: str | Path | None,
    num_classes: int | None,
    nms: Nms | str | None,
) -> tuple[nn.Module, CheckpointRecord]:
    if backbone is not None and task is Task.CLASSIFICATION:
        raise BadInput("--backbone-checkpoint is for dense tasks; use --checkpoint")
    model = build_model(task, variant, num_classes, nms)
    fill_untrained(model)
    if backbone is None:
        warn("no --checkpoint: the weights are untrained, so what the model answers means nothing")
        return model, CheckpointRecord(source="untrained")
    path = _checkpoint_path(backbone, Task.CLASSIFICATION, variant)
    found = load_backbone_checkpoint(model, path)
    warn(f"the {task} head is untrained, so what the model answers means nothing")
    record = _checkpoint_record(backbone, path, found.layout)
    return model, record.model_copy(update={"source": "backbone"})


def _checkpoint_path(checkpoint: str | Path, task: Task, variant: Variant) -> Path:
    return published_checkpoint(task, variant) if checkpoint == PUBLISHED else Path(checkpoint)


def _checkpoint_record(checkpoint: str | Path, path: Path, layout: str) -> CheckpointRecord:
    return CheckpointRecord(
        source="published" if checkpoint == PUBLISHED else "file",
        file=path.name,
        layout=layout,
        sha256=sha256_of(path),
    )


def _macs(task: Task, variant: Variant, num_classes: int) -> int:
    with torch.device("meta"):
        model = build_model(task, variant, num_classes)
    return sum(count_macs(model, *RECIPES[task].counted_size).values())


def _derived_files(directory: Path) -> dict[str, FileRecord]:
    """Files made from an earlier model.onnx stay listed, so that they are known to be stale."""
    try:
        files = read_manifest(directory / MANIFEST).files
    except ArtifactError:
        return {}
    return {
        name: record
        for name, record in files.items()
        if record.source_sha256 is not None and (directory / name).is_file()
    }


def _command(
    variant: Variant,
    task: Task,
    record: CheckpointRecord,
    name: str,
    options: GraphOptions,
    opset: int,
    num_classes: int | None,
    labels: str | Path | None,
    nms: Nms | str | None,
) -> str:
    words = ["dfvt-deploy export", f"--variant {variant}", f"--task {task}"]
    if record.source == "backbone":
        words.append(f"--backbone-checkpoint {record.file}")
    elif record.source != "untrained":
        words.append(f"--checkpoint {PUBLISHED if record.source == PUBLISHED else record.file}")
    if options.static:
        words.append("--static {}x{}".format(*options.static))
    if options.logits:
        words.append("--logits")
    if num_classes is not None:
        words.append(f"--num-classes {num_classes}")
    if labels is not None:
        words.append(f"--labels {Path(labels).name}")
    if nms is not None:
        words.append(f"--nms {nms}")
    if options.nms_operator is not NmsOperator.LOOP:
        words.append(f"--nms-op {options.nms_operator}")
    if name != model_name(task, variant):
        words.append(f"--name {name}")
    return " ".join([*words, f"--input {options.input_kind}", f"--opset {opset}"])
