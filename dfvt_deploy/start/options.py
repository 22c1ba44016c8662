from pathlib import Path
from typing import Literal

from ..errors import BadInput
from ..files import check_output_folder, check_utf8
from ..options import Options, option
from ..types import Task, Variant


class QuickstartOptions(Options):
    """The model that `quickstart` takes from export to answers, and the folders it writes."""

    command = "quickstart"
    example: Literal["digits"] | None = option(
        None,
        help="Train a small model first, on images that a Python package has, and ask the server "
        "about images that were held out. Takes about three minutes on two cores, once.",
    )
    variant: Variant | None = option(None, help="Size of the model; s by default.")
    task: Task = option(Task.CLASSIFICATION, help="Task of the model.")
    checkpoint: str | None = option(
        None,
        help="Checkpoint file. By default the authors' release, for the task that they published "
        "and where it can be had; else the weights are untrained.",
    )
    image: Path | None = option(
        None, help="Image to ask the server about; the package's sample image by default."
    )
    output: Path = option(Path("exports"), help="Folder of exported models.")
    repository: Path = option(Path("model_repository"), help="Triton model repository.")
    picture: Path = option(Path("quickstart.png"), help="Picture of the answers that is written.")
    verbose: bool = option(False, help="Show each comparison and the seconds of each step.")

    def check(self) -> None:
        if self.example:
            decided = ("variant", "task", "checkpoint", "image")
            self.refuse(f"is decided by --example {self.example}; omit one of the two", *decided)

    def check_files(self) -> None:
        if self.image is not None and not self.image.is_file():
            raise BadInput(f"--image {self.image} is not a file")
        check_output_folder(self.output, "--output")
        check_utf8(self.output, "--output")
        check_output_folder(self.repository, "--repository")
        check_output_folder(self.picture.parent, "--picture")
        if self.picture.suffix != ".png" or self.picture.is_dir():
            raise BadInput(f"--picture {self.picture} is not the name of a .png file")


class DoctorOptions(Options):
    """`doctor` has no options of its own."""

    command = "doctor"
