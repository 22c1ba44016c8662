"""`doctor`."""

from __future__ import annotations

import typer

from ..exit_codes import command
from ..printing import print_findings, print_json
from .app import app
from .options import Debug, Json


@app.command()
def doctor(json_: Json = False, debug: Debug = False) -> None:
    """What this machine has and lacks for each command, and how to get it.

    Ends with 3 if something that is not optional is missing.

    Example: `dfvt-deploy doctor`
    """
    with command(debug):
        from ..checkup import doctor as examine

        findings = examine()
        if json_:
            print_json([vars(finding) for finding in findings])
        else:
            print_findings(findings)
        if any(not f.found and not f.optional for f in findings):
            raise typer.Exit(3)
