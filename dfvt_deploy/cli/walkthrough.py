"""`quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..exit_codes import command
from ..printing import print_quickstart
from ..types import Task, Variant
from .app import app
from .options import (
    CheckpointOption,
    Debug,
    Json,
    OutputOption,
    RepositoryOption,
    TaskOption,
    VariantOption,
    choice,
)


@app.command()
def quickstart(
    variant: VariantOption = Variant.S.value,
    task: TaskOption = Task.CLASSIFICATION.value,
    checkpoint: CheckpointOption = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="An image of yours; a sample by default.")
    ] = None,
    output: OutputOption = Path("exports"),
    repository: RepositoryOption = Path("model_repository"),
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Export, populate, serve and predict for one model, over HTTP and gRPC.

    Example: `dfvt-deploy quickstart --variant s`
    """
    with command(debug):
        from ..walkthrough import SAMPLE_IMAGE
        from ..walkthrough import quickstart as run

        result = run(
            choice(Variant, "variant", variant, more=()),
            choice(Task, "task", task, more=()),
            checkpoint=checkpoint,
            image=image or SAMPLE_IMAGE,
            output=output,
            repository=repository,
        )
        print_quickstart(result, json_)
