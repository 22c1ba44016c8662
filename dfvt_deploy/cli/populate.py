from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluate.options import ValidateOptions
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
        print_populated(done, options.repository, options.exports)


def print_populated(populated: "Sequence[PopulatedModel]", repository: Path, exports: Path) -> None:
    """Print the new version of each model, and the command that serves them, or that the last of
    those that are not live waits for."""
    print_json([{**vars(p), "repository": str(p.repository)} for p in populated])
    going_on: Options = ServeOptions(repository=repository)
    for model in populated:
        state = "" if model.live else ", not live"
        if not model.live:
            going_on = _until_live(model, repository, exports)
        last = going_on.command_line() if model is populated[-1] else None
        print_result(f"{model.repository}: {model.name} version {model.version}{state}", last)


def _until_live(model: "PopulatedModel", repository: Path, exports: Path) -> Options:
    """`promote` of a version that passed, else the `validate` that `promote` would ask for."""
    from ..serving.history import passed, verdicts_on
    from ..serving.layout import read_version

    if passed(verdicts_on(repository, model.name, model.version)):
        return PromoteOptions(model=model.name, repository=repository)
    fast = read_version(repository, model.name, model.version).fast_decode
    return ValidateOptions(model=model.name, exports=exports, fast_decode=fast)
