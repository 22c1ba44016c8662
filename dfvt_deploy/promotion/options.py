from pathlib import Path

from ..errors import BadInput
from ..options import Options, argument, option
from ..text_files import check_name


class VersionsOptions(Options):
    """Which versions are listed, and which old ones are removed before."""

    command = "versions"
    model: str | None = argument(None, help="Name of a model; all models by default.")
    repository: Path = option(Path("model_repository"), help="Triton model repository.")
    prune: int | None = option(
        None,
        minimum=1,
        help="Number of newest versions of MODEL to keep. Older ones are removed, but neither the "
        "live one nor the one that rollback returns to.",
    )
    prune_previous: bool = option(
        False, help="With --prune: the version that rollback returns to may be removed too."
    )

    def check(self) -> None:
        if self.prune is not None and self.model is None:
            raise BadInput("--prune needs the name of a model")
        if self.prune_previous and self.prune is None:
            raise BadInput("--prune-previous is for --prune")


class RollbackOptions(Options):
    """Which model goes back to the version that was live before."""

    command = "rollback"
    model: str = argument(help="Name of a model in the repository.")
    repository: Path = option(Path("model_repository"), help="Triton model repository.")
    reason: str = option("", help="Why; one line, kept in the history.")

    def check(self) -> None:
        if self.reason:
            try:
                check_name(self.reason)
            except ValueError as error:
                raise BadInput(f"--reason: {error}") from None


class PromoteOptions(RollbackOptions):
    """Which version of a model becomes live."""

    command = "promote"
    version: int | None = option(None, minimum=1, help="Version; the newest by default.")
    exports: Path = option(
        Path("exports"), help="Folder of exported models, for verdicts newer than the version."
    )
    unvalidated: bool = option(
        False, help="Take a version without a passing verdict; --reason says why."
    )
    to: str | None = option(
        None, help="Make it live there too: s3://bucket/folder, gs://bucket/folder or a path."
    )

    def check(self) -> None:
        super().check()
        if self.unvalidated and not self.reason:
            raise BadInput("--unvalidated needs --reason, which is kept in the history")
