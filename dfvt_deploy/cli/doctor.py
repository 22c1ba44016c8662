from ..start.options import DoctorOptions
from .output import print_json, print_line, print_result, print_table
from .parameters import add_command


@add_command(DoctorOptions)
def doctor(_options: DoctorOptions) -> None:
    """Show what this machine lacks for each command.

    Says how to get what is missing. Ends with 3 if something that is not optional is missing.

    Example: `dfvt-deploy doctor`
    """
    from ..errors import StageFailed
    from ..start.doctor import doctor as examine

    findings = examine()
    print_json([vars(finding) for finding in findings])
    rows = []
    for each in findings:
        mark = "ok" if each.found else "-" if each.optional else "!!"
        rows.append([mark, each.name, each.found or "missing", each.commands])
    print_table("This machine", ["", "what", "found", "for"], rows)
    for each in findings:
        if each.fix:
            print_line(f"{each.name}: {each.fix}")
    if missing := [f.name for f in findings if not f.found and not f.optional]:
        raise StageFailed(f"this machine lacks {', '.join(missing)}")
    lacking = ", ".join(f.name for f in findings if not f.found) or "nothing"
    print_result(f"this machine lacks, all optional: {lacking}", "dfvt-deploy quickstart")
