"""Checkpoints: the model that a file is of, and loading its weights into a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..types import Task, Variant, Weights
from .state_dict import NOT_WEIGHTS, StateDict, read_state_dict
from .stored_tensor import Damaged, shown
from .task_model import model_of
from .variants import VARIANTS

#: Rows shown of a table of mismatched keys.
_ROWS = 12

#: What the backbone of a dense model has beyond the classifier's.
_DENSE_ONLY = ("norm0.", "norm1.", "norm2.", "norm3.", "conv1x1layers.")


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


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
        return _described(self.task, self.variant, self.num_classes)


def inspect_checkpoint(path: str | Path, weights: Weights | str = Weights.MODEL) -> CheckpointInfo:
    """Tell task, variant, class count and layout of a checkpoint file.

    weights: `model`, or `ema` for the moving average that some training codes keep as `model_ema`,
        `state_dict_ema` or `ema_state_dict`.
    Raises CheckpointError where the file is not readable, or not a DFvT checkpoint.
    """
    return _read(path, weights)[1]


def load_checkpoint(
    model: nn.Module, path: str | Path, weights: Weights | str = Weights.MODEL
) -> CheckpointInfo:
    """Load a checkpoint into a model of `build_model`, every weight and nothing else.

    Layouts: `{"model": …}` as published, `{"state_dict": …}`, a bare state dict, safetensors; keys
        may carry `module.` or `_orig_mod.`, and for the classifier `backbone.`. Nothing in the file
        is executed. `weights` as in `inspect_checkpoint`.

    Raises CheckpointError for another task, variant or class count than the model's, missing,
    unexpected or misshapen keys, or values that float32 cannot hold. The model is then unchanged.
    """
    state, found = _read(path, weights)
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith(NOT_WEIGHTS)}
    wanted = _identify(expected, "model")
    if (found.task, found.variant, found.num_classes) != wanted:
        raise CheckpointError(f"{path} is {found}; the model is {_described(*wanted)}")
    _load(model, expected, state, f"{path} does not fit {found}")
    return found


def load_backbone_checkpoint(
    model: nn.Module, path: str | Path, weights: Weights | str = Weights.MODEL
) -> CheckpointInfo:
    """Load a classification checkpoint into the backbone of a dense model; `weights` as in
    `inspect_checkpoint`.

    What the classifier does not have (the dense outputs' norms and 1x1 convolutions, the head)
    keeps its values; the classifier's own head is left out. Raises CheckpointError where the
    checkpoint is not a classifier's of the model's variant, or does not fit. The model is then
    unchanged.
    """
    state, found = _read(path, weights)
    task, variant, _ = _identify(model.state_dict(), "model")
    if not model_of(found.task).is_backbone or found.variant is not variant:
        raise CheckpointError(
            f"{path} is {found}; a backbone for {task} comes from a DFvT-{variant.upper()} "
            "classification checkpoint"
        )
    backbone = model.get_submodule("backbone")
    expected = {
        k: v
        for k, v in backbone.state_dict().items()
        if not k.endswith(NOT_WEIGHTS) and not k.startswith(_DENSE_ONLY)
    }
    own = {k: v for k, v in state.weights.items() if not k.startswith(("head.", "norm."))}
    _load(backbone, expected, StateDict(own, state.layout), f"{path} does not fit the backbone")
    return found


def _described(task: Task, variant: Variant, num_classes: int) -> str:
    return f"DFvT-{variant.upper()} {task} with {num_classes} classes"


def _read(path: str | Path, weights: Weights | str) -> tuple[StateDict, CheckpointInfo]:
    which, note = Weights(weights), None
    state = read_state_dict(Path(path), which)
    if state.other_entry is not None:
        others = Weights.EMA if which is Weights.MODEL else Weights.MODEL
        note = (
            f"{path} holds {state.entry} and {state.other_entry}; the weights are taken from "
            f"{state.entry} (--weights {others} takes {state.other_entry})"
        )
    return state, CheckpointInfo(*_identify(state.weights, str(path)), state.layout, note)


def _identify(weights: Mapping[str, _Shaped], source: str) -> tuple[Task, Variant, int]:
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
    num_classes = _rows(weights[entry.head_weight]) - entry.background_rows
    embed = weights.get(f"{prefix}patch_embed.proj2.weight")
    for variant, config in VARIANTS.items():
        if embed is not None and _rows(embed) == config.embed_dim:
            return task, variant, num_classes
    known = ", ".join(f"{v.upper()} {c.embed_dim}" for v, c in VARIANTS.items())
    raise CheckpointError(
        f"{source} is of no known DFvT variant: {prefix}patch_embed.proj2.weight is "
        f"{'missing' if embed is None else list(embed.shape)}; embed dims: {known}"
    )


def _rows(weight: _Shaped) -> int:
    return weight.shape[0] if len(weight.shape) > 0 else 0


def _load(
    module: nn.Module, expected: Mapping[str, Tensor], state: StateDict, failure: str
) -> None:
    """Read and check every weight, then load all. A mismatch raises before anything is loaded."""
    problems = {
        key: f"missing, expected {list(value.shape)}"
        for key, value in expected.items()
        if key not in state.weights
    }
    values: dict[str, Tensor] = {}
    for key, weight in state.weights.items():
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
    """One line for each weight that cannot be used, and what is wrong with it."""
    shown_problems = {shown(key): text for key, text in list(problems.items())[:_ROWS]}
    width = max(map(len, shown_problems))
    rows = [f"  {key:<{width}}  {problem}" for key, problem in shown_problems.items()]
    if len(problems) > _ROWS:
        rows.append(f"  … and {len(problems) - _ROWS} more")
    return rows
