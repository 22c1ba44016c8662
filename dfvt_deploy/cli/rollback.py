"""`rollback`."""

from ..promotion.options import RollbackOptions
from .parameters import add_command
from .promote import print_change


@add_command(RollbackOptions)
def rollback(options: RollbackOptions, as_json: bool) -> None:
    """Make the version live again that was live before.

    Each call goes one version further back. It asks for no verdict, so that it always works.

    Example: `dfvt-deploy rollback dfvt_s_classification --reason "wrong labels"`
    """
    from ..promotion.changes import rollback_with

    print_change(options, rollback_with(options), as_json)
