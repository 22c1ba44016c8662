"""`lint`."""

from __future__ import annotations

from ..linting.options import LintOptions
from .output import print_json, print_lines
from .parameters import add_command


@add_command(LintOptions)
def lint(options: LintOptions, as_json: bool) -> None:
    """Find what would stop a repository from loading or make it answer wrongly.

    Needs no GPU and no server, and runs nothing of the repository. Ends with 2 when a finding is
    an error.

    Example: `dfvt-deploy lint model_repository --target tritonserver:26.07`
    """
    from ..errors import BadInput
    from ..linting.formats import report_json, report_sarif, report_text
    from ..linting.run import lint_with

    report = lint_with(options)
    if options.format == "sarif":
        print_json(report_sarif(report))
    elif as_json or options.format == "json":
        print_json(report_json(report))
    else:
        print_lines(report_text(report))
    if report.errors:
        raise BadInput(f"{report.errors} of {len(report.findings)} findings are errors")
