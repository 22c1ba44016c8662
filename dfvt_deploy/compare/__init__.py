"""Comparison of two runs of one model: how far they agree, and whether that is enough.

`comparison_of(task)` says how a task's outputs and answers are compared and which limits hold for
them. `task_comparison.Comparison` compares one runner with another on given feeds, and
`limits.checks` measures the sums of either (`agreement.Agreement`) against limits.
"""

from typing import TYPE_CHECKING

from ..task_entries import entry
from ..types import Task

if TYPE_CHECKING:
    from .task_comparison import TaskComparison


def comparison_of(task: Task) -> "TaskComparison":
    """How two runs of a model of this task are compared."""
    comparison: TaskComparison = entry("compare", task, "COMPARISON")
    return comparison
