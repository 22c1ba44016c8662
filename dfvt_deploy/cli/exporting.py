"""`models` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..exit_codes import command
from ..printing import print_export, print_json, print_models
from ..types import InputKind, Nms, NmsOperator, Task, Variant
from .app import app
from .options import (
    CheckpointOption,
    Debug,
    Json,
    OutputOption,
    TaskOption,
    VariantOption,
    canvas,
    each,
    tasks,
    variants,
)

if TYPE_CHECKING:
    from ..artifact import Artifact


@app.command()
def models(json_: Json = False, debug: Debug = False) -> None:
    """Sizes of the nine models beside the published figures.

    Example: `dfvt-deploy models`
    """
    with command(debug):
        from ..models.table import model_table
        from ..progress import stage

        with stage("counting parameters and multiply-accumulates"):
            rows = model_table()
        if json_:
            return print_json([vars(row) for row in rows])
        print_models(rows)


@app.command()
def export(
    variant: VariantOption,
    task: TaskOption = Task.CLASSIFICATION.value,
    checkpoint: CheckpointOption = None,
    output: OutputOption = Path("exports"),
    name: Annotated[
        str | None, typer.Option("--name", help="Model name; dfvt_VARIANT_TASK by default.")
    ] = None,
    input_: Annotated[
        InputKind,
        typer.Option("--input", help="uint8 NHWC pixels, or normalised float32 NCHW."),
    ] = InputKind.UINT8,
    opset: Annotated[int, typer.Option("--opset", help="ONNX opset, 17 to 23.")] = 20,
    num_classes: Annotated[
        int | None,
        typer.Option("--num-classes", help="Must agree with the checkpoint; for none, chooses."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Text file, one class name a line.")
    ] = None,
    backbone_checkpoint: Annotated[
        str | None,
        typer.Option(
            "--backbone-checkpoint",
            help="Classification checkpoint for a dense model's backbone; its head is untrained.",
        ),
    ] = None,
    static: Annotated[
        str | None,
        typer.Option("--static", help="Fixed HxW of a dense model, as 512x512; dynamic without."),
    ] = None,
    logits: Annotated[
        bool, typer.Option("--logits", help="Segmentation: the logits as a second output.")
    ] = False,
    nms: Annotated[
        Nms | None,
        typer.Option("--nms", help="Detection: hard, or soft, which is published for b."),
    ] = None,
    nms_operator: Annotated[
        NmsOperator,
        typer.Option("--nms-op", help="Detection: NMS as loops, or as the ONNX operator."),
    ] = NmsOperator.LOOP,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """PyTorch to ONNX, simplified and checked against PyTorch.

    Writes `exports/NAME/model.onnx` and `manifest.json`. A failure leaves earlier files as they
    were.

    Example: `dfvt-deploy export --variant s --checkpoint DFvT_S_7829.pth`
    """
    with command(debug):
        from ..conversion.export import export as export_model
        from ..errors import BadInput

        chosen = [(v, t) for t in tasks(task) for v in variants(variant)]
        if len(chosen) > 1 and (name or {checkpoint, backbone_checkpoint} - {None, "published"}):
            raise BadInput("several models take neither --name nor a checkpoint file")

        def export_one(each_variant: Variant, each_task: Task) -> Artifact:
            artifact = export_model(
                each_variant,
                each_task,
                checkpoint=checkpoint,
                output=output,
                name=name,
                input_kind=input_,
                opset=opset,
                num_classes=num_classes,
                labels=labels,
                backbone_checkpoint=backbone_checkpoint,
                static=canvas(static),
                logits=logits,
                nms=nms,
                nms_operator=nms_operator,
            )
            if not json_:
                print_export(artifact)
            return artifact

        with each(chosen, export_one) as done:
            if json_:
                documents = [artifact.manifest.model_dump(mode="json") for artifact in done]
                print_json(documents if len(chosen) > 1 else documents[0])
