"""The nine models with their sizes, beside the published figures."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..data import published_figures
from ..types import Task, Variant, model_name
from .build import BUILDERS, build_model, count_macs, count_parameters

_ACCURACY = {
    Task.CLASSIFICATION: (("top1", "top-1 %"),),
    Task.DETECTION: (("ap_box", "box AP"), ("ap_mask", "mask AP")),
    Task.SEGMENTATION: (("miou", "mIoU"),),
}


@dataclass(frozen=True)
class ModelRow:
    """One model. Parameters in millions, MACs in billions at `size` (height, width), counted here;
    None where the model cannot be built yet. `published_gflops` counts multiply-accumulates, as
    the paper does. `accuracy` is the published one."""

    name: str
    task: Task
    variant: Variant
    size: tuple[int, int]
    parameters_m: float | None
    gmacs: float | None
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
            parameters = gmacs = None
            if task in BUILDERS:
                with torch.device("meta"):
                    model = build_model(task, variant)
                    images = torch.zeros(1, 3, height, width)
                parameters = count_parameters(model) / 1e6
                gmacs = count_macs(model, images) / 1e9
            rows.append(
                ModelRow(
                    name=model_name(task, variant),
                    task=task,
                    variant=variant,
                    size=(height, width),
                    parameters_m=parameters,
                    gmacs=gmacs,
                    published_parameters_m=published["params_m"],
                    published_gflops=published["gflops"],
                    accuracy={label: published[key] for key, label in _ACCURACY[task]},
                )
            )
    return rows
