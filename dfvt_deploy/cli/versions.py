import re
from typing import TYPE_CHECKING

from ..promotion.options import PromoteOptions, VersionsOptions
from ..serving.options import ServeOptions
from .output import print_json, print_result, print_table
from .parameters import add_command

if TYPE_CHECKING:
    from ..promotion.live_versions import VersionRow


@add_command(VersionsOptions)
def versions(options: VersionsOptions) -> None:
    """Show the versions of each model, and which one is live and why.

    Example: `dfvt-deploy versions dfvt_s_classification --prune 3`
    """
    from ..promotion.live_versions import versions as find_versions

    rows = find_versions(options)
    changes = [row.change and row.change.model_dump(mode="json") for row in rows]
    print_json([{**vars(r), "change": change} for r, change in zip(rows, changes, strict=True)])
    print_table(
        str(options.repository),
        ["model", "version", "state", "created", "network", "verdict", "MB", "last made live"],
        [_cells(row) for row in rows],
    )
    waiting = {row.model for row in rows} - {row.model for row in rows if row.live}
    serving, repository = ServeOptions(repository=options.repository), options.repository
    going_on = PromoteOptions(model=min(waiting), repository=repository) if waiting else serving
    text = f"{sum(row.live for row in rows)} of {len(rows)} versions live"
    print_result(text, going_on.command_line())


def _cells(row: "VersionRow") -> list[str]:
    mark = "live" if row.live else "before" if row.previous else ""
    change = row.change
    last = f"{change.action} {change.at} {change.who} {change.reason}".strip() if change else ""
    network = f"{row.backend} {row.precision}"
    size = f"{row.bytes / 1e6:.1f}"
    cells = [row.model, str(row.version), mark, row.created, network, row.verdict, size, last]
    return [re.sub(r"(\d)T(\d\d:.*?)\+00:00", r"\1 \2 UTC", cell) for cell in cells]
