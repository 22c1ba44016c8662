"""`versions`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..promotion.options import VersionsOptions
from .output import print_json, print_table
from .parameters import add_command

if TYPE_CHECKING:
    from ..promotion.table import VersionRow


@add_command(VersionsOptions)
def versions(options: VersionsOptions, as_json: bool) -> None:
    """Show the versions of each model, and which one is live and why.

    Example: `dfvt-deploy versions dfvt_s_classification --prune 3`
    """
    from ..promotion.table import versions_with

    rows = versions_with(options)
    if as_json:
        return print_json(
            [{**vars(r), "change": r.change and r.change.model_dump(mode="json")} for r in rows]
        )
    print_table(
        str(options.repository),
        ["model", "version", "", "created", "network", "verdict", "MB", "last made live"],
        [_cells(row) for row in rows],
    )


def _cells(row: VersionRow) -> list[str]:
    mark = "live" if row.live else "before" if row.previous else ""
    change = row.change
    last = f"{change.action} {change.at} {change.who} {change.reason}".strip() if change else ""
    network = f"{row.backend} {row.precision}"
    size = f"{row.bytes / 1e6:.1f}"
    return [row.model, str(row.version), mark, row.created, network, row.verdict, size, last]
