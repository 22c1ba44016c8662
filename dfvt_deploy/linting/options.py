from pathlib import Path
from typing import Literal, TypeAlias

from ..options import Options, argument, option

Format: TypeAlias = Literal["text", "json", "sarif"]


class LintOptions(Options):
    """See `linting.run.lint`."""

    command = "lint"
    paths: tuple[Path, ...] = argument(
        (Path("model_repository"),), help="Repositories, or folders of single models."
    )
    target: str | None = option(
        None, help="Release that will serve, such as tritonserver:26.07. Versions are compared."
    )
    format: Format = option("text", help="How the findings are written.")
    ignore: tuple[str, ...] = option((), help="Rule to leave out. May be given several times.")
    fix: bool = option(False, help="Correct what can be corrected safely, then check again.")
    cores: int | None = option(
        None, help="Cores of the machine that will serve. This machine's by default.", minimum=1
    )
    gpu: bool = option(True, help="Whether the machine that will serve has a GPU.")
