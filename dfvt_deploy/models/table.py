"""The nine models with their sizes, beside the published figures."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..data import published_figures
from ..types import Task, Variant, model_name
from .build import build_model, count_parameters
from .task_model import model_of


def count_macs(task: Task, variant: Variant, num_classes: int | None = None) -> dict[str, int]:
    """Count the multiply-accumulates of a model for one image of the paper's size, by part: those
    of convolutions, linear layers and attention, as in the paper, and not those of norms and
    activations."""
    entry = model_of(task)
    with torch.device("meta"):
        model = build_model(task, variant, num_classes)
    images = torch.empty(1, 3, *entry.counted_size, device="meta")
    if entry.counted_parts is None:
        return {"model": _count(model, images)}
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
    parameters_m, published_parameters_m: in millions.
    gmacs, gmacs_by_part, published_gflops: multiply-accumulates in billions, which the paper calls
        FLOPs.
    accuracy: the published accuracy by the title of the figure.
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
    """Make a row for each published model, on the meta device: no weights are made."""
    figures = published_figures()
    rows = []
    for task in (task for task in Task if task in figures):
        entry = model_of(task)
        for variant in Variant:
            published = figures[task][variant]
            with torch.device("meta"):
                model = build_model(task, variant)
            macs = count_macs(task, variant)
            rows.append(
                ModelRow(
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
            )
    return rows
