"""`doctor`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..start.options import DoctorOptions
from .output import print_json, print_line, print_result, print_table
from .parameters import add_command

if TYPE_CHECKING:
    from ..start.doctor import Finding


@add_command(DoctorOptions)
def doctor(_options: DoctorOptions, as_json: bool) -> None:
    """Show what this machine lacks for each command.

    Says how to get what is missing. Ends with 3 if something that is not optional is missing.

    Example: `dfvt-deploy doctor`
    """
    from ..errors import StageFailed
    from ..start.doctor import doctor as examine

    findings = examine()
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        _print_findings(findings)
    if missing := [f.name for f in findings if not f.found and not f.optional]:
        raise StageFailed(f"this machine lacks {', '.join(missing)}")
    if not as_json:
        lacking = ", ".join(f.name for f in findings if not f.found) or "nothing"
        print_result(f"this machine lacks, all optional: {lacking}", "dfvt-deploy quickstart")


def _print_findings(findings: "Sequence[Finding]") -> None:
    rows = [
        [
            "ok" if finding.found else "-" if finding.optional else "!!",
            finding.name,
            finding.found or "missing",
            finding.commands,
        ]
        for finding in findings
    ]
    print_table("This machine", ["", "what", "found", "for"], rows)
    for finding in findings:
        if finding.fix:
            print_line(f"{finding.name}: {finding.fix}")
