"""The nine models with their sizes, beside the published figures."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..data import published_figures
from ..types import Task, Variant, model_name
from .build import build_model, count_parameters
from .macs import count_macs

_ACCURACY = {
    Task.CLASSIFICATION: (("top1", "top-1 %"),),
    Task.DETECTION: (("ap_box", "box AP"), ("ap_mask", "mask AP")),
    Task.SEGMENTATION: (("miou", "mIoU"),),
}


@dataclass(frozen=True)
class ModelRow:
    """One model. Parameters in millions, MACs in billions at `size` (height, width), counted here;
    `gmacs_by_part` are those of `count_macs`. `published_gflops` counts multiply-accumulates, as
    the paper does. `accuracy` is the published one."""

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
    """A row for each task and variant. Counts on the meta device; no weights are made."""
    figures = published_figures()
    rows = []
    for task in Task:
        height, width = figures[task].get("input") or figures[task]["flops_input"]
        for variant in Variant:
            published = figures[task][variant]
            with torch.device("meta"):
                model = build_model(task, variant)
                macs = count_macs(model, height, width)
            rows.append(
                ModelRow(
                    name=model_name(task, variant),
                    task=task,
                    variant=variant,
                    size=(height, width),
                    parameters_m=count_parameters(model) / 1e6,
                    gmacs=sum(macs.values()) / 1e9,
                    gmacs_by_part={part: count / 1e9 for part, count in macs.items()},
                    published_parameters_m=published["params_m"],
                    published_gflops=published["gflops"],
                    accuracy={label: published[key] for key, label in _ACCURACY[task]},
                )
            )
    return rows
