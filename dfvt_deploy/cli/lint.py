from dataclasses import replace

from ..linting.options import LintOptions
from ..serving.options import ServeOptions
from . import output
from .output import print_json, print_line, print_result
from .parameters import add_command


@add_command(LintOptions)
def lint(options: LintOptions) -> None:
    """Find what would stop a repository from loading or make it answer wrongly.

    Needs no GPU and no server, and runs nothing of the repository. Ends with 2 when a finding is
    an error.

    Example: `dfvt-deploy lint model_repository --target tritonserver:26.07`
    """
    from ..errors import BadInput
    from ..linting.reading import is_model_folder
    from ..linting.rules import Severity
    from ..linting.run import counts, finding_lines, mends, report_json, report_sarif
    from ..linting.run import lint as check

    report = check(options)
    output.json_wanted |= options.format != "text"
    print_json(report_sarif(report) if options.format == "sarif" else report_json(report))
    for text in report.fixed:
        print_line(text)
    for finding in report.findings:
        fails = finding.severity is Severity.ERROR
        for line in finding_lines(finding):
            (print_result if fails else print_line)(line)  # what fails, with --quiet too
    path = options.paths[0]
    served = ServeOptions(repository=path.parent if is_model_folder(path) else path)
    again = replace(options, fix=not options.fix and any(map(mends, report.findings)))
    print_result(counts(report), (again if report.errors else served).command_line())
    if report.errors:
        raise BadInput(f"{report.errors} of {len(report.findings)} findings are errors")
