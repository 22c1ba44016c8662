from typing import TYPE_CHECKING

from ..promotion.options import PromoteOptions, RollbackOptions, VersionsOptions
from .output import print_json, print_result
from .parameters import add_command

if TYPE_CHECKING:
    from ..serving.history import Change


@add_command(PromoteOptions)
def promote(options: PromoteOptions) -> None:
    """Make a version of a model live, with all its steps at once.

    It must have a passing verdict of `validate` on each file of its network, and `lint` must find
    no error in it. Ends with 4 for want of a verdict.

    Example: `dfvt-deploy promote dfvt_s_classification --version 2 --reason "new weights"`
    """
    from ..promotion.live_versions import promote as make_live

    print_change(options, make_live(options))


def print_change(options: RollbackOptions, change: "Change") -> None:
    """Print which version is live after a change, and which was before."""
    name = options.model
    print_json({"model": name, **change.model_dump(mode="json")})
    before = f", before it version {change.previous}" if change.previous else ""
    versions = VersionsOptions(model=name, repository=options.repository)
    text = f"{name} version {change.version} is live{before}"
    print_result(text, versions.command_line())
