"""The options of `export`."""

import dataclasses
from pathlib import Path
from typing import Literal

from ..data import read_labels
from ..errors import BadInput
from ..files import check_output_folder, check_utf8
from ..names import check_model_name
from ..options import Options, Size, option
from ..types import MAX_CLASSES, InputKind, Nms, Task, Variant, Weights, model_name

DEFAULT_OPSET = 20

#: Least opset; below it LayerNormalization is decomposed, which overflows in FP16.
MIN_OPSET = 17

#: Newest opset that this code was tested with.
MAX_OPSET = 23

#: The word that stands for the authors' checkpoint in place of a file.
PUBLISHED = "published"


class ExportOptions(Options):
    """Which models are exported, with which weights, and how their graphs are written."""

    command = "export"
    variant: Variant | Literal["all"] = option(help="Size of the model.")
    task: Task | Literal["all"] = option(Task.CLASSIFICATION, help="Task of the model.")
    checkpoint: str | None = option(
        None,
        help="Checkpoint file, or 'published' for the authors' release. The weights are untrained "
        "without it.",
    )
    output: Path = option(Path("exports"), help="Folder of exported models.")
    name: str | None = option(
        None, help="Name of the model and its folder; dfvt_VARIANT_TASK by default."
    )
    input_kind: InputKind = option(
        InputKind.UINT8,
        flag="--input",
        help="Input tensor: uint8 pixels (N, H, W, 3), or normalised float32 (N, 3, H, W).",
    )
    opset: int = option(
        DEFAULT_OPSET,
        minimum=MIN_OPSET,
        maximum=MAX_OPSET,
        help=f"ONNX opset, {MIN_OPSET} to {MAX_OPSET}.",
    )
    num_classes: int | None = option(
        None,
        minimum=1,
        maximum=MAX_CLASSES,
        help="Number of classes of an untrained model. A checkpoint brings its own, which must be "
        "equal.",
    )
    labels: Path | None = option(None, help="Text file with one class name on each line.")
    backbone_checkpoint: str | None = option(
        None,
        help="Classification checkpoint for the backbone of a detection or segmentation model, "
        "whose head stays untrained.",
    )
    weights: Weights = option(
        Weights.MODEL,
        help="Weights to take from a checkpoint that has both: the model's, or their moving "
        "average.",
    )
    static: Size | None = option(
        None,
        help="Fixed height and width of a detection or segmentation model, such as 512x704. Both "
        "are dynamic by default.",
    )
    logits: bool = option(False, help="Segmentation: add the logits as a second output.")
    nms: Nms | None = option(
        None,
        help="Detection: how overlapping boxes are removed. Soft for variant b by default, as "
        "published, else hard.",
    )

    def check(self) -> None:
        """Refuse options that do not go together."""
        files = {self.checkpoint, self.backbone_checkpoint} - {None, PUBLISHED}
        if len(self.models()) > 1 and (self.name or files):
            raise BadInput("several models take neither --name nor a checkpoint file")
        if self.checkpoint is not None:
            self.refuse("is for models without --checkpoint", "backbone_checkpoint")
        elif self.backbone_checkpoint is None:
            self.refuse("chooses in a checkpoint; give --checkpoint a file", "weights")
        if self.name is not None:
            try:
                check_model_name(self.name)
            except ValueError as error:
                raise BadInput(f"--{error}") from None

    def check_files(self) -> None:
        """Look at files and folders before any work is done."""
        check_output_folder(self.output, "--output")
        check_utf8(self.output, "--output")
        if self.labels is not None:
            check_utf8(self.labels, "--labels")
            read_labels(self.labels)
        for flag, given in (
            ("--checkpoint", self.checkpoint),
            ("--backbone-checkpoint", self.backbone_checkpoint),
        ):
            if given not in (None, PUBLISHED) and not Path(given).exists():
                raise BadInput(f"{flag} {given} does not exist")
            if given is not None:
                check_utf8(Path(given), flag)

    def models(self) -> "tuple[ExportOptions, ...]":
        """The options of each model that `all` stands for."""
        if self.variant != "all" and self.task != "all":
            return (self,)
        variants = Variant if self.variant == "all" else (self.variant,)
        tasks = Task if self.task == "all" else (self.task,)
        return tuple(
            dataclasses.replace(self, variant=variant, task=task)
            for task in tasks
            for variant in variants
        )

    @property
    def model_name(self) -> str:
        """The name of the one model that is exported."""
        return self.name or model_name(Task(self.task), Variant(self.variant))
