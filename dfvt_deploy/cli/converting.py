"""`convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..exit_codes import command
from ..printing import print_conversion, print_json
from ..types import Int8Target, Precision, RangeMethod, SearchUnit
from .app import app
from .options import Debug, Json, each

if TYPE_CHECKING:
    from ..conversion.convert import Converted


@app.command()
def convert(
    precision: Annotated[Precision, typer.Option("--precision", help="fp16 or int8.")],
    model: Annotated[
        list[str] | None, typer.Argument(help="Names under --exports; all of them by default.")
    ] = None,
    exports: Annotated[Path, typer.Option("--exports", help="Folder of exported models.")] = Path(
        "exports"
    ),
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Folder of images like those the model will see."),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option("--images", help="Most that are used; by default 64 (INT8 256), dense less."),
    ] = None,
    max_side: Annotated[
        int, typer.Option("--max-side", help="Longest side of a dense canvas while calibrating.")
    ] = 512,
    keep_fp32: Annotated[
        list[str] | None,
        typer.Option("--keep-fp32", help="A node or an operator; may be given again."),
    ] = None,
    largest: Annotated[
        float,
        typer.Option("--largest", help="FP16: nodes that touch larger values stay in FP32."),
    ] = 512,
    method: Annotated[
        RangeMethod, typer.Option("--method", help="INT8: how ranges are chosen.")
    ] = RangeMethod.ENTROPY,
    target: Annotated[
        Int8Target, typer.Option("--target", help="INT8: what will run the file.")
    ] = Int8Target.CPU,
    search: Annotated[
        SearchUnit | None,
        typer.Option("--search", help="Look for what must stay in FP32 for the limits to hold."),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-agreement",
            help="Least share of equal answers, 0 to 1: best classes, pixels or detections.",
        ),
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Exported models to FP16 or INT8 files, compared with FP32 before they are written.

    Goes on past a model that fails.

    Example: `dfvt-deploy convert dfvt_s_classification --precision fp16 --calibration photos`
    """
    with command(debug):
        from ..artifact import exported_models
        from ..conversion.convert import convert as convert_model

        folders = [exports / name for name in model] if model else exported_models(exports)

        def convert_one(folder: Path) -> Converted:
            converted = convert_model(
                folder,
                precision,
                calibration=calibration,
                images=images,
                max_side=max_side,
                keep_fp32=keep_fp32 or (),
                largest=largest,
                method=method,
                target=target,
                search=search,
                min_agreement=min_agreement,
            )
            if not json_:
                print_conversion(converted)
            return converted

        with each([(folder,) for folder in folders], convert_one) as done:
            if json_:
                print_json([one.as_json() for one in done])
