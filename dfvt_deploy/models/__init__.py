"""The networks in PyTorch, and their checkpoints."""

from .build import build_model
from .checkpoint import CheckpointInfo, inspect_checkpoint, load_checkpoint

__all__ = ["CheckpointInfo", "build_model", "inspect_checkpoint", "load_checkpoint"]
