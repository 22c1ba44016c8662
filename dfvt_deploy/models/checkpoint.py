"""Checkpoints: the state dict in a file with its keys as the models name them, the model that it is
of, and loading its weights into a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..types import Task, Variant, Weights
from .backbone import VARIANTS
from .checkpoint_files import read_content
from .inert_pickle import Entries, Foreign, Name, StoredTensor
from .stored_tensor import Damaged, Weight, shown
from .task_model import model_of

#: Entries that a model derives from its configuration, or that only training reads.
NOT_WEIGHTS = ("relative_position_index", "attn_mask", "num_batches_tracked")

#: Heads that exist in training only.
_TRAINING_ONLY = "auxiliary_head."

#: The entries of a checkpoint that hold a state dict, and the layout's name of each. Where there
#: are several of a kind, the first is taken.
_ENTRIES: Mapping[Weights, Mapping[str, str]] = {
    Weights.MODEL: {"model": "published", "state_dict": "state_dict"},
    Weights.EMA: {
        "model_ema": "published",
        "state_dict_ema": "state_dict",
        "ema_state_dict": "state_dict",
    },
}

#: What an averaged model counts beside its weights.
_EMA_COUNTERS = ("steps", "n_averaged", "num_updates")


@dataclass(frozen=True)
class StateDict:
    """The weights of a checkpoint by the models' names, derived buffers left out; its layout and
    the note as in `CheckpointInfo`."""

    weights: Mapping[str, Weight]
    layout: str
    note: str | None


def read_state_dict(path: Path, which: Weights) -> StateDict:
    """Find the model's weights or their moving average in a checkpoint file; nothing in it is
    executed, and the values are not read yet. Raises CheckpointError where it is not readable, or
    without such a state dict of tensors only."""
    try:
        content = read_content(path)
    except Damaged as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    layout, note, entries = _chosen(content.top, which, path)
    values = entries.named()
    if len(values) < len(entries.pairs):
        raise CheckpointError(f"{path}: a key of the state dict is no text, or is there twice")
    if which is Weights.EMA:
        values = {key: value for key, value in values.items() if key not in _EMA_COUNTERS}
    weights: dict[str, Weight] = {}
    for name, key in _model_names(list(values), path).items():
        if name.endswith(NOT_WEIGHTS) or name.startswith(_TRAINING_ONLY):
            continue
        if not isinstance(values[key], (StoredTensor, Weight)):
            raise CheckpointError(
                f"{path}: {shown(key)} in the state dict is {_kind(values[key])}, not a tensor"
            )
        try:
            weights[name] = content.weight(values[key])
        except Damaged as error:
            raise CheckpointError(f"{path}: {shown(key)} cannot be read: {error}") from error
    return StateDict(weights, layout or content.bare_layout, note)


def _chosen(top: Any, which: Weights, path: Path) -> tuple[str, str | None, Entries]:
    """Layout, note and state dict; the layout of a bare state dict is empty."""
    hint = (
        "expected {'model': …}, {'state_dict': …} or a bare state dict (a whole pickled module is "
        "not loaded: load it where it was made, and save model.state_dict())"
    )
    if not isinstance(top, Entries):
        raise CheckpointError(f"{path} holds {_kind(top)}, no state dict; {hint}")
    values = top.named()
    found = {
        kind: next((key for key in keys if isinstance(values.get(key), Entries)), None)
        for kind, keys in _ENTRIES.items()
    }
    if (entry := found.pop(which)) is not None:
        ((others, other),) = found.items()
        note = (
            f"{path} holds {entry} and {other}; the weights are taken from {entry} "
            f"(--weights {others} takes {other})"
        )
        return _ENTRIES[which][entry], note if other else None, values[entry]
    if which is Weights.EMA:
        raise CheckpointError(
            f"{path} holds no EMA weights, which would be {' or '.join(_ENTRIES[which])}; "
            "--weights model takes the others"
        )
    if any(isinstance(value, (StoredTensor, Weight)) for value in values.values()):
        return "", None, top
    if found[Weights.EMA] is not None:
        raise CheckpointError(
            f"{path} holds EMA weights only ({found[Weights.EMA]}); --weights ema takes them"
        )
    held = ", ".join(f"{shown(key)} ({_kind(values[key])})" for key in sorted(values)[:8])
    raise CheckpointError(f"{path} holds a dict of {held or 'nothing'}, no state dict; {hint}")


def _kind(value: Any) -> str:
    if isinstance(value, Foreign):
        return f"an object of {shown(value.of)}"
    if isinstance(value, Name):
        return f"the name {shown(value.path)}"
    plain = {Entries: "a dict", StoredTensor: "a tensor", Weight: "a tensor"}
    return plain.get(type(value), f"of the type {type(value).__name__}")


def _model_names(keys: list[str], path: Path) -> dict[str, str]:
    """The file's key of each name in the models, without what wrappers put before it: DDP
    `module.`, torch.compile `_orig_mod.`, and a bare backbone `backbone.`"""
    names = [key.replace("_orig_mod.", "") for key in keys]
    if all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    if not any(name.startswith(("decode_head.", "roi_head.", "rpn_head.")) for name in names):
        names = [name.removeprefix("backbone.") for name in names]
    found: dict[str, str] = {}
    for name, key in zip(names, keys, strict=True):
        if name in found:
            raise CheckpointError(f"{path} holds both {shown(found[name])} and {shown(key)}")
        found[name] = key
    return found


#: Rows shown of a table of mismatched keys.
_ROWS = 12

#: What the backbone of a dense model has beyond the classifier's.
_DENSE_ONLY = ("norm0.", "norm1.", "norm2.", "norm3.", "conv1x1layers.")


@dataclass(frozen=True)
class CheckpointInfo:
    """The model that a checkpoint is of, and where its weights lie in the file: `published`
    (`{"model": …}`), `state_dict`, `bare` or `safetensors`. `note` says which weights are taken
    where the file has EMA weights too, and is None elsewhere."""

    task: Task
    variant: Variant
    num_classes: int
    layout: str
    note: str | None = None

    def __str__(self) -> str:
        return f"DFvT-{self.variant.upper()} {self.task} with {self.num_classes} classes"


def inspect_checkpoint(path: str | Path, weights: Weights | str = Weights.MODEL) -> CheckpointInfo:
    """Tell task, variant, class count and layout of a checkpoint file, by its `model` weights or by
    the moving average `ema` that some training codes keep as `model_ema`, `state_dict_ema` or
    `ema_state_dict`. Raises CheckpointError where the file is no readable DFvT checkpoint."""
    return _read(path, weights)[1]


def load_checkpoint(
    model: nn.Module, path: str | Path, weights: Weights | str = Weights.MODEL
) -> CheckpointInfo:
    """Load a checkpoint into a model of `build_model`, every weight and nothing else; `weights` as
    in `inspect_checkpoint`. The layout is `{"model": …}` as published, `{"state_dict": …}`, a
    bare state dict, or safetensors; keys may carry `module.` or `_orig_mod.`, and for the
    classifier `backbone.`. Nothing in the file is executed. Raises CheckpointError for another
    task, variant or class count than the model's, missing, unexpected or misshapen keys, or values
    that float32 cannot hold. The model is then unchanged."""
    state, found = _read(path, weights)
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith(NOT_WEIGHTS)}
    wanted = CheckpointInfo(*_identify(expected, "model"), found.layout, found.note)
    if found != wanted:
        raise CheckpointError(f"{path} is {found}; the model is {wanted}")
    _load(model, expected, state.weights, f"{path} does not fit {found}")
    return found


def load_backbone_checkpoint(
    model: nn.Module, path: str | Path, weights: Weights | str = Weights.MODEL
) -> CheckpointInfo:
    """Load a classification checkpoint into the backbone of a dense model; `weights` as in
    `inspect_checkpoint`. The classifier's head is left out, and what it does not have (the dense
    outputs' norms and 1x1 convolutions, the head) keeps its values. Raises CheckpointError, and
    changes nothing, where the checkpoint is not a classifier's of the variant, or does not fit."""
    state, found = _read(path, weights)
    task, variant, _ = _identify(model.state_dict(), "model")
    if not model_of(found.task).is_backbone or found.variant is not variant:
        raise CheckpointError(
            f"{path} is {found}; a backbone for {task} comes from a DFvT-{variant.upper()} "
            "classification checkpoint"
        )
    backbone = model.get_submodule("backbone")
    of_both = {k: v for k, v in backbone.state_dict().items() if not k.startswith(_DENSE_ONLY)}
    expected = {k: v for k, v in of_both.items() if not k.endswith(NOT_WEIGHTS)}
    own = {k: v for k, v in state.weights.items() if not k.startswith(("head.", "norm."))}
    _load(backbone, expected, own, f"{path} does not fit the backbone")
    return found


def _read(path: str | Path, weights: Weights | str) -> tuple[StateDict, CheckpointInfo]:
    state = read_state_dict(Path(path), Weights(weights))
    return state, CheckpointInfo(*_identify(state.weights, str(path)), state.layout, state.note)


def _identify(weights: Mapping[str, Any], source: str) -> tuple[Task, Variant, int]:
    """Tell task, variant and class count of a state dict by keys that only one task has."""
    entries = {task: model_of(task) for task in Task}
    task = next((t for t, entry in entries.items() if entry.head_weight in weights), None)
    if task is None:
        heads = ", ".join(entry.head_weight for entry in entries.values())
        keys = ", ".join(map(shown, list(weights)[:3])) or "none"
        raise CheckpointError(
            f"{source} is no DFvT checkpoint with a head: none of {heads} (first keys: {keys})"
        )
    entry = entries[task]
    prefix = entry.backbone_prefix
    num_classes = next(iter(weights[entry.head_weight].shape), 0) - entry.background_rows
    embed = weights.get(f"{prefix}patch_embed.proj2.weight")
    for variant, config in VARIANTS.items():
        if embed is not None and embed.shape[:1] == (config.embed_dim,):
            return task, variant, num_classes
    known = ", ".join(f"{v.upper()} {c.embed_dim}" for v, c in VARIANTS.items())
    raise CheckpointError(
        f"{source} is of no known DFvT variant: {prefix}patch_embed.proj2.weight is "
        f"{'missing' if embed is None else list(embed.shape)}; embed dims: {known}"
    )


def _load(
    module: nn.Module, expected: Mapping[str, Tensor], weights: Mapping[str, Weight], failure: str
) -> None:
    """Read and check every weight, then load all. A mismatch raises before anything is loaded."""
    missing = {key: value for key, value in expected.items() if key not in weights}
    problems = {key: f"missing, expected {list(v.shape)}" for key, v in missing.items()}
    values: dict[str, Tensor] = {}
    for key, weight in weights.items():
        if key not in expected:
            problems[key] = f"unexpected, {list(weight.shape)}"
        elif weight.shape != tuple(expected[key].shape):
            problems[key] = f"is {list(weight.shape)}, expected {list(expected[key].shape)}"
        elif weight.read is None:
            problems[key] = f"is {shown(weight.dtype)}, expected a float of 16, 32 or 64 bits"
        else:
            try:
                values[key] = weight.read()
            except (Damaged, OSError) as error:
                raise CheckpointError(f"{failure}: {key} cannot be read: {error}") from error
            if problem := _unusable(key, values[key]):
                problems[key] = problem
    if problems:
        raise CheckpointError(f"{failure}:", *_table(problems))
    module.load_state_dict(values, strict=False)


def _unusable(key: str, value: Tensor) -> str | None:
    """Say what is wrong with a weight's values, or None."""
    finite = torch.isfinite(value.float())
    if not finite.all():
        bad = int((~finite).sum())
        return f"{bad} of {value.numel()} values are not finite, or too large for float32"
    if key.endswith("running_var") and bool((value < 0).any()):
        return f"{int((value < 0).sum())} of {value.numel()} variances are negative"
    return None


def _table(problems: Mapping[str, str]) -> list[str]:
    listed = {shown(key): text for key, text in list(problems.items())[:_ROWS]}
    width, more = max(map(len, listed)), len(problems) - _ROWS
    rows = [f"  {key:<{width}}  {problem}" for key, problem in listed.items()]
    return [*rows, f"  … and {more} more"] if more > 0 else rows
