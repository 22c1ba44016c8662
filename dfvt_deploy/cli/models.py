from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..options import Options
from ..types import Task
from .output import print_json, print_result, print_table
from .parameters import add_command

if TYPE_CHECKING:
    from ..models.build import ModelRow


class ModelsOptions(Options):
    """`models` has no options of its own."""

    command = "models"


@add_command(ModelsOptions)
def models(_options: ModelsOptions) -> None:
    """Show the sizes of the nine models.

    Parameters and multiply-accumulates are counted here and stand beside the published figures.
    Detection is counted with 1000 proposals and 100 masks.

    Example: `dfvt-deploy models`
    """
    from ..models.build import model_table
    from ..progress import spinner

    with spinner("counting parameters and multiply-accumulates"):
        rows = model_table()
    print_json([vars(row) for row in rows])
    _print_models(rows)
    print_result(f"{len(rows)} models", "dfvt-deploy export --variant s")


def _print_models(rows: "Sequence[ModelRow]") -> None:
    print_table(
        "DFvT models (MACs counted here; the paper's FLOPs are multiply-accumulates)",
        ["model", "input", "params M", "paper", "GMACs", "paper", "published accuracy"],
        [
            [
                row.name,
                f"{row.size[0]}x{row.size[1]}",
                f"{row.parameters_m:.1f}",
                f"{row.published_parameters_m:g}",
                f"{row.gmacs:.3g}",
                f"{row.published_gflops:g}",
                tuple(f"{value:g} {label}" for label, value in row.accuracy.items()),
            ]
            for row in rows
        ],
    )
    for task in Task:
        parted = [row for row in rows if row.task is task and len(row.gmacs_by_part) > 1]
        if parted:
            print_table(
                f"GMACs of {task} by part (norms and activations not)",
                ["model", *(part.replace(".", ".\n") for part in parted[0].gmacs_by_part)],
                [[row.name, *(f"{g:.1f}" for g in row.gmacs_by_part.values())] for row in parted],
            )
