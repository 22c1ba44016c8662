"""The networks in PyTorch, and their checkpoints.

Enter through `build_model` and `load_checkpoint`, or through `build.model_from_manifest` for the
model of an export. A task describes its network in its file (`task_model.TaskModel`); the published
sizes are `variants.VARIANTS`.
"""

from .build import build_model
from .checkpoint import CheckpointInfo, inspect_checkpoint, load_checkpoint

__all__ = ["CheckpointInfo", "build_model", "inspect_checkpoint", "load_checkpoint"]
