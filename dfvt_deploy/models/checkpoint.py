"""Checkpoints: what is in a file, and getting it into a model, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..types import Task, Variant
from .backbone import VARIANTS
from .restricted_pickle import load_pickled

#: Entries that a model derives from its configuration, or that only training reads.
NOT_WEIGHTS = ("relative_position_index", "attn_mask", "num_batches_tracked")

#: Heads that exist in training only.
TRAINING_ONLY = "auxiliary_head."

#: Rows shown of a table of mismatched keys.
_ROWS = 12


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint is of. `layout`: `published` (`{"model": …}`), `state_dict`, `bare` or
    `safetensors`."""

    task: Task
    variant: Variant
    num_classes: int
    layout: str

    def __str__(self) -> str:
        return f"DFvT-{self.variant.upper()} {self.task} with {self.num_classes} classes"


def inspect_checkpoint(path: str | Path) -> CheckpointInfo:
    """Task, variant, class count and layout of a checkpoint file.

    Raises:
        CheckpointError: not readable, or not a DFvT checkpoint.
    """
    layout, weights = read_weights(Path(path))
    task, variant, num_classes = _identify({k: v.shape for k, v in weights.items()}, str(path))
    return CheckpointInfo(task, variant, num_classes, layout)


def load_checkpoint(model: nn.Module, path: str | Path) -> CheckpointInfo:
    """Load a checkpoint into a model of `build_model`, every weight and nothing else.

    Layouts: `{"model": …}` as published, `{"state_dict": …}`, a bare state dict, safetensors;
    keys may carry the prefix `module.`, and for the classifier `backbone.`. Nothing in the file
    is executed.

    Raises:
        CheckpointError: another task, variant or class count than the model's, missing,
            unexpected or misshapen keys, or values that are not finite. The model is unchanged.
    """
    layout, weights = read_weights(Path(path))
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith(NOT_WEIGHTS)}
    found = CheckpointInfo(*_identify({k: v.shape for k, v in weights.items()}, str(path)), layout)
    wanted = CheckpointInfo(*_identify({k: v.shape for k, v in expected.items()}, "model"), layout)
    if found != wanted:
        raise CheckpointError(f"{path} is {found}; the model is {wanted}")
    problems = _mismatches(expected, weights)
    if problems:
        raise CheckpointError(f"{path} does not fit {wanted}:\n{_table(problems)}")
    model.load_state_dict(weights, strict=False)
    return found


def load_backbone_checkpoint(model: nn.Module, path: str | Path) -> CheckpointInfo:
    """Load a classification checkpoint into the backbone of a dense model.

    What the classifier does not have (the dense outputs' norms and 1x1 convolutions, the head)
    keeps its values; the classifier's own head is left out.

    Raises:
        CheckpointError: not a classification checkpoint of the model's variant, or its backbone
            does not fit. The model is unchanged.
    """
    layout, weights = read_weights(Path(path))
    found = CheckpointInfo(*_identify({k: v.shape for k, v in weights.items()}, str(path)), layout)
    wanted = _identify({k: v.shape for k, v in model.state_dict().items()}, "model")
    if (found.task, found.variant) != (Task.CLASSIFICATION, wanted[1]):
        raise CheckpointError(
            f"{path} is {found}; a backbone for {wanted[0]} comes from a DFvT-{wanted[1].upper()} "
            "classification checkpoint"
        )
    backbone = model.get_submodule("backbone")
    dense_only = ("norm0.", "norm1.", "norm2.", "norm3.", "conv1x1layers.")
    expected = {
        k: v
        for k, v in backbone.state_dict().items()
        if not k.endswith(NOT_WEIGHTS) and not k.startswith(dense_only)
    }
    weights = {k: v for k, v in weights.items() if not k.startswith(("head.", "norm."))}
    problems = _mismatches(expected, weights)
    if problems:
        raise CheckpointError(f"{path} does not fit the backbone:\n{_table(problems)}")
    backbone.load_state_dict(weights, strict=False)
    return found


def read_weights(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Layout and weights of a checkpoint, keys as the models name them, derived buffers left out.

    Raises:
        CheckpointError: not readable, or without a state dict.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file")
    if _is_safetensors(path):
        layout = "safetensors"
        entries: Mapping[str, Any] = _load_safetensors(path)
    else:
        layout, entries = _state_dict(load_pickled(path), path)
    weights = {k: v for k, v in entries.items() if isinstance(v, Tensor)}
    foreign = [k for k in entries if k not in weights]
    if foreign:
        raise CheckpointError(f"{path}: {foreign[0]!r} in the state dict is not a tensor")
    if unnamed := [k for k in weights if not isinstance(k, str)]:
        raise CheckpointError(f"{path}: key {unnamed[0]!r} of the state dict is not a name")
    return layout, {
        k: v
        for k, v in _without_prefixes(weights, path).items()
        if not k.endswith(NOT_WEIGHTS) and not k.startswith(TRAINING_ONLY)
    }


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    # The format begins with the header's length (8 bytes) and the header, a JSON object.
    return len(start) == 9 and start[8:] == b"{" and start[:2] != b"PK"


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def _state_dict(content: Any, path: Path) -> tuple[str, Mapping[str, Any]]:
    if isinstance(content, Mapping):
        for key, layout in (("model", "published"), ("state_dict", "state_dict")):
            if isinstance(content.get(key), Mapping):
                return layout, content[key]
        if any(isinstance(value, Tensor) for value in content.values()):
            return "bare", content
        held = f"a dict with the keys {', '.join(sorted(map(str, content))[:8]) or '(none)'}"
    else:
        held = f"a {type(content).__name__}"
    raise CheckpointError(
        f"{path} holds {held}, no state dict; expected {{'model': …}}, {{'state_dict': …}} or a "
        "bare one (a whole pickled module is not loaded: save model.state_dict())"
    )


def _without_prefixes(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    if weights and all(k.startswith("module.") for k in weights):
        weights = {k.removeprefix("module."): v for k, v in weights.items()}
    if any(k.startswith(("decode_head.", "roi_head.", "rpn_head.")) for k in weights):
        return dict(weights)
    stripped = {k.removeprefix("backbone."): v for k, v in weights.items()}
    if len(stripped) < len(weights):
        twice = next(k for k in stripped if k in weights and f"backbone.{k}" in weights)
        raise CheckpointError(f"{path} holds both {twice} and backbone.{twice}")
    return stripped


def _identify(shapes: Mapping[str, torch.Size], source: str) -> tuple[Task, Variant, int]:
    """Task, variant and class count of a state dict, from its tell-tale keys."""
    if "roi_head.bbox_head.fc_cls.weight" in shapes:
        task, prefix = Task.DETECTION, "backbone."
        num_classes = _rows(shapes["roi_head.bbox_head.fc_cls.weight"]) - 1
    elif "decode_head.conv_seg.weight" in shapes:
        task, prefix = Task.SEGMENTATION, "backbone."
        num_classes = _rows(shapes["decode_head.conv_seg.weight"])
    elif "head.weight" in shapes:
        task, prefix = Task.CLASSIFICATION, ""
        num_classes = _rows(shapes["head.weight"])
    else:
        keys = ", ".join(list(shapes)[:3]) or "none"
        raise CheckpointError(
            f"{source} is no DFvT checkpoint with a head: none of head.weight, "
            f"decode_head.conv_seg.weight, roi_head.bbox_head.fc_cls.weight (first keys: {keys})"
        )
    embed = shapes.get(f"{prefix}patch_embed.proj2.weight")
    for variant, config in VARIANTS.items():
        if embed is not None and _rows(embed) == config.embed_dim:
            return task, variant, num_classes
    known = ", ".join(f"{v.upper()} {c.embed_dim}" for v, c in VARIANTS.items())
    raise CheckpointError(
        f"{source} is of no known DFvT variant: {prefix}patch_embed.proj2.weight is "
        f"{'missing' if embed is None else list(embed)}; embed dims: {known}"
    )


def _rows(shape: torch.Size) -> int:
    return shape[0] if len(shape) > 0 else 0


def _mismatches(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> list[tuple[str, str]]:
    problems = [
        (k, f"missing, expected {list(v.shape)}") for k, v in expected.items() if k not in weights
    ]
    for key, value in weights.items():
        if key not in expected:
            problems.append((key, f"unexpected, {list(value.shape)}"))
        elif value.shape != expected[key].shape:
            problems.append((key, f"is {list(value.shape)}, expected {list(expected[key].shape)}"))
        elif not value.is_floating_point():
            problems.append((key, f"is {str(value.dtype).removeprefix('torch.')}, expected float"))
        elif not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            problems.append((key, f"{bad} of {value.numel()} values are not finite"))
    return problems


def _table(problems: list[tuple[str, str]]) -> str:
    width = max(len(key) for key, _ in problems[:_ROWS])
    rows = [f"  {key:<{width}}  {problem}" for key, problem in problems[:_ROWS]]
    if len(problems) > _ROWS:
        rows.append(f"  … and {len(problems) - _ROWS} more")
    return "\n".join(rows)
