"""The tasks that can be exported."""

from __future__ import annotations

from collections.abc import Mapping

from ..types import Task
from . import classification, detection, segmentation
from .recipe import ExportRecipe

RECIPES: Mapping[Task, ExportRecipe] = {
    Task.CLASSIFICATION: classification.RECIPE,
    Task.DETECTION: detection.RECIPE,
    Task.SEGMENTATION: segmentation.RECIPE,
}
