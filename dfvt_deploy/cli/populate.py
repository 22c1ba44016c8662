from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import Options
from ..promotion.options import PromoteOptions
from ..serving.options import PopulateOptions, ServeOptions
from .exit_codes import for_each
from .output import print_json, print_result
from .parameters import add_command

if TYPE_CHECKING:
    from ..serving.repository import PopulatedModel


@add_command(PopulateOptions)
def populate(options: PopulateOptions) -> None:
    """Add exported models to a Triton model repository, each as a new version.

    Example: `dfvt-deploy populate dfvt_s_classification --backend tensorrt --precision fp16`
    """
    from ..artifact import exported_models
    from ..serving.repository import populate as add_version

    folders = {path.name: path for path in exported_models(options.exports, options.models)}

    def call(folder: Path) -> "PopulatedModel":
        made = add_version(folder, options)
        if options.to:
            from ..promotion.live_versions import promote

            chosen = {"repository": options.repository, "exports": options.exports}
            promote(made.name, version=made.version, to=options.to, **chosen)
            made = replace(made, live=True)
        return made

    with for_each(folders, call) as done:
        print_populated(done, options.repository)


def print_populated(populated: "Sequence[PopulatedModel]", repository: Path) -> None:
    """Print the new version of each model, and the command that serves them."""
    print_json([{**vars(p), "repository": str(p.repository)} for p in populated])
    going_on: Options = ServeOptions(repository=repository)
    for model in populated:
        state = "" if model.live else ", not live"
        if not model.live:
            going_on = PromoteOptions(model=model.name, repository=repository)
        last = going_on.command_line() if model is populated[-1] else None
        print_result(f"{model.repository}: {model.name} version {model.version}{state}", last)
