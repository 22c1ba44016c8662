from ..promotion.options import RollbackOptions
from .parameters import add_command
from .promote import print_change


@add_command(RollbackOptions)
def rollback(options: RollbackOptions) -> None:
    """Make the version live again that was live before.

    Each call goes one version further back. It asks for no verdict, so that it always works.

    Example: `dfvt-deploy rollback dfvt_s_classification --reason "wrong labels"`
    """
    from ..promotion.live_versions import rollback as go_back

    print_change(options, go_back(options))
