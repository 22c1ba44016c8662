"""Which entry of a checkpoint is the state dict, and its keys as the models name them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..types import Weights
from .checkpoint_files import read_content
from .inert_pickle import Entries, Foreign, Name, StoredTensor
from .stored_tensor import Damaged, Weight, shown

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
    """The weights of a checkpoint by the models' names, derived buffers left out, and its layout,
    see `CheckpointInfo`. `entry` of the file holds the weights, and `other_entry` the model's where
    these are the EMA weights, or the reverse; each is None where there is none."""

    weights: Mapping[str, Weight]
    layout: str
    entry: str | None = None
    other_entry: str | None = None


def read_state_dict(path: Path, which: Weights) -> StateDict:
    """Find the model's weights or their moving average in a checkpoint file; nothing in it is
    executed, and the values are not read yet. Raises CheckpointError where it is not readable, or
    without such a state dict of tensors only."""
    try:
        content = read_content(path)
    except Damaged as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    layout, entry, other, entries = _chosen(content.top, which, path)
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
    return StateDict(weights, layout or content.bare_layout, entry, other)


def _chosen(top: Any, which: Weights, path: Path) -> tuple[str, str | None, str | None, Entries]:
    """Layout, entry, other entry and state dict; the layout of a bare state dict is empty."""
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
    entry = found[which]
    if entry is not None:
        other = found[Weights.EMA if which is Weights.MODEL else Weights.MODEL]
        return _ENTRIES[which][entry], entry, other, values[entry]
    if which is Weights.EMA:
        raise CheckpointError(
            f"{path} holds no EMA weights, which would be {' or '.join(_ENTRIES[which])}; "
            "--weights model takes the others"
        )
    if any(isinstance(value, (StoredTensor, Weight)) for value in values.values()):
        return "", None, None, top
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
    if isinstance(value, Entries):
        return "a dict"
    if isinstance(value, (StoredTensor, Weight)):
        return "a tensor"
    return f"of the type {type(value).__name__}"


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
