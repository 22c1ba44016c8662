"""`lint`."""

from dataclasses import replace

from ..linting.options import LintOptions
from ..serving.options import ServeOptions
from .output import print_json, print_line, print_result
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
    from ..linting.reading import is_model_folder
    from ..linting.run import lint_with

    report = lint_with(options)
    if options.format == "sarif":
        print_json(report_sarif(report))
    elif as_json or options.format == "json":
        print_json(report_json(report))
    else:
        *lines, counts = report_text(report).split("\n")
        for line in lines:
            print_line(line)
        path = options.paths[0]
        served = ServeOptions(repository=path.parent if is_model_folder(path) else path)
        again = replace(options, fix=not options.fix)
        print_result(counts, (again if report.errors else served).command_line())
    if report.errors:
        raise BadInput(f"{report.errors} of {len(report.findings)} findings are errors")
