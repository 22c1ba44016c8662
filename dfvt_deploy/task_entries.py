"""A task is one file of its name in each layer; this module finds it."""

from importlib import import_module
from typing import Any

from .types import Task


def entry(layer: str, task: Task, name: str) -> Any:
    """The object called `name`, the same in each layer, in the file of a task in a layer: a package
    of dfvt_deploy, such as `compare` or `serving.tasks`."""
    return getattr(import_module(f"dfvt_deploy.{layer}.{task}"), name)
