"""The models by task and variant, untrained or with the weights that a manifest records, and their
sizes beside the published figures."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..data import DIRECTORY
from ..errors import BadInput, CheckpointError
from ..files import sha256_of
from ..manifest import Manifest
from ..types import MAX_CLASSES, Nms, Task, Variant, model_name
from .backbone import VARIANTS
from .checkpoint import load_backbone_checkpoint, load_checkpoint
from .published import published_checkpoint
from .task_model import model_of


def build_model(
    task: Task | str,
    variant: Variant | str,
    num_classes: int | None = None,
    nms: Nms | str | None = None,
) -> nn.Module:
    """Build a model in eval mode whose parameters hold nothing useful; see `load_checkpoint`.
    `num_classes` and, of a detector, `nms` are the published ones by default. Raises BadInput where
    there is no such task, variant or NMS, none for this task, or a class count is out of range."""
    try:
        task, variant = Task(task), Variant(variant)
        nms = None if nms is None else Nms(nms)
    except ValueError as error:
        raise BadInput(
            f"{error}; tasks: {', '.join(Task)}; variants: {', '.join(Variant)}; "
            f"NMS: {', '.join(Nms)}"
        ) from None
    entry = model_of(task)
    if nms is not None and not entry.published_nms:
        raise BadInput(f"NMS is for detection; {task} has none")
    classes = entry.num_classes if num_classes is None else num_classes
    if not 1 <= classes <= MAX_CLASSES:
        raise BadInput(f"num_classes {classes} is outside 1..{MAX_CLASSES}")
    own = (nms or entry.published_nms[variant],) if entry.published_nms else ()
    return entry.network(VARIANTS[variant], classes, *own).eval()


def fill_untrained(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter a deterministic random value that keeps activations in range, to try the
    tools without a checkpoint; what the model answers means nothing."""
    generator = torch.Generator().manual_seed(seed)
    entries = [model_of(task) for task in Task]
    gains = {key: gain for entry in entries for key, gain in entry.untrained_gains.items()}
    shifts = {key: shift for entry in entries for key, shift in entry.untrained_shifts.items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                gain = (2**0.5 if parameter.ndim == 4 else 1.0) * gains.get(name, 1.0)
                std = 0.02 if name.endswith("bias_table") else gain / fan_in**0.5
                parameter.normal_(0.0, std, generator=generator)
            else:
                mean = 0.0 if name.endswith("bias") else 1.0
                parameter.normal_(mean, 0.02, generator=generator)
            if name in shifts:
                parameter[-1] += shifts[name]


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def model_from_manifest(manifest: Manifest, checkpoint: str | Path | None = None) -> nn.Module:
    """Build the model of an export again from the checkpoint it came from, given by its path or as
    `published`. Without it, untrained weights are made again, published ones are taken from the
    cache, and any other file from the path that `export` was given. Raises CheckpointError where
    the file is not there, or its SHA-256 is not the manifest's."""
    record = manifest.checkpoint
    model = build_model(manifest.task, manifest.variant, manifest.num_classes, manifest.nms)
    if record.source in ("untrained", "backbone"):
        fill_untrained(model)
    if record.source == "untrained":
        if checkpoint is not None:
            raise CheckpointError(
                f"{manifest.name} was exported without a checkpoint, so {checkpoint} is not its "
                "own; leave --checkpoint out, or export again with it"
            )
        return model
    path = _checkpoint_file(manifest, checkpoint)
    found = sha256_of(path)
    if found != record.sha256:
        raise CheckpointError(
            f"{path} is not the checkpoint of {manifest.name}: its SHA-256 is {found}, the "
            f"manifest's {record.sha256}; give --checkpoint the file it was exported from, or "
            "export again from this one"
        )
    load = load_backbone_checkpoint if record.source == "backbone" else load_checkpoint
    load(model, path, record.weights)
    return model


def _checkpoint_file(manifest: Manifest, checkpoint: str | Path | None) -> Path:
    record = manifest.checkpoint
    published = checkpoint is None and record.source == "published"
    if published or checkpoint == "published":
        # A published backbone is the classifier's file.
        task = Task.CLASSIFICATION if record.source == "backbone" else manifest.task
        return published_checkpoint(task, manifest.variant)
    path = Path(checkpoint or record.file or "")
    with suppress(OSError):  # The file system does not take such a name.
        if path.is_file():
            return path
    if checkpoint is not None:
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file")
    raise CheckpointError(
        f"{manifest.name} was exported from {record.file}, which is not there; "
        "give --checkpoint the file, or compare with --against onnx, which gives no verdict"
    )


def count_macs(task: Task, variant: Variant, num_classes: int | None = None) -> dict[str, int]:
    """Count the multiply-accumulates of a model for one image of the paper's size, by part: of
    convolutions, linear layers and attention, as in the paper, not of norms and activations."""
    entry = model_of(task)
    with torch.device("meta"):
        model = build_model(task, variant, num_classes)
    images = torch.empty(1, 3, *entry.counted_size, device="meta")
    return {
        name: sum(_count(module, inputs) for module, inputs in calls)
        for name, calls in entry.counted_parts(model, images).items()
    }


def _count(module: nn.Module, inputs: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(inputs)
    return int(counter.get_total_flops()) // 2


@dataclass(frozen=True)
class ModelRow:
    """One model: its sizes as counted here, and the published figures.

    size: height and width of the image for which multiply-accumulates are counted.
    parameters_m, gmacs: parameters in millions, and multiply-accumulates in billions, which the
        paper calls FLOPs. accuracy: by the title of the figure.
    """

    name: str
    task: Task
    variant: Variant
    size: tuple[int, int]
    parameters_m: float
    gmacs: float
    gmacs_by_part: dict[str, float]
    published_parameters_m: float
    published_gflops: float
    accuracy: dict[str, float]


def model_table() -> list[ModelRow]:
    """Make a row for each published model, on the meta device: no weights are made. The published
    figures are those of the paper's tables (main text and supplement)."""
    figures = json.loads((DIRECTORY / "paper.json").read_text(encoding="utf-8"))
    return [_row(t, v, figures[t][v]) for t in Task if t in figures for v in Variant]


def _row(task: Task, variant: Variant, published: Mapping[str, float]) -> ModelRow:
    entry, macs = model_of(task), count_macs(task, variant)
    with torch.device("meta"):
        model = build_model(task, variant)
    return ModelRow(
        name=model_name(task, variant),
        task=task,
        variant=variant,
        size=entry.counted_size,
        parameters_m=count_parameters(model) / 1e6,
        gmacs=sum(macs.values()) / 1e9,
        gmacs_by_part={part: count / 1e9 for part, count in macs.items()},
        published_parameters_m=published["params_m"],
        published_gflops=published["gflops"],
        accuracy={title: published[key] for key, title in entry.accuracy},
    )
