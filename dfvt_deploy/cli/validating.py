"""`validate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..exit_codes import command
from ..printing import print_json, print_validation
from ..types import Precision
from .app import app
from .options import Debug, Json, RepositoryOption


@app.command()
def validate(
    model: Annotated[str, typer.Argument(help="Name under --exports.")],
    exports: Annotated[Path, typer.Option("--exports", help="Folder of exported models.")] = Path(
        "exports"
    ),
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            help="The file it was exported from. Looked for in the working directory by default.",
        ),
    ] = None,
    precision: Annotated[
        list[Precision] | None,
        typer.Option("--precision", help="Converted files to include; all that exist by default."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", help="TensorRT plans to include; all that run here by default."),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Start a server on --repository and include it.")
    ] = False,
    repository: RepositoryOption = Path("model_repository"),
    url: Annotated[
        str | None, typer.Option("--url", help="host:port of a running server to include.")
    ] = None,
    protocol: Annotated[Literal["grpc", "http"], typer.Option("--protocol")] = "grpc",
    served: Annotated[
        str | None,
        typer.Option("--served", help="The file that the server at --url serves; model.onnx."),
    ] = None,
    dataset: Annotated[
        Literal["imagenet", "coco", "ade20k"] | None,
        typer.Option("--dataset", help="Kind of the labelled images in --data."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder or file of them.")] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Images without labels; the package's samples by default."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Most images, evenly spread.")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", help="Points that the dataset's metric may fall by."),
    ] = None,
    against: Annotated[
        Literal["fp32", "onnx"],
        typer.Option("--against", help="The PyTorch model, or model.onnx, without a verdict."),
    ] = "fp32",
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option("--device", help="Of PyTorch and onnxruntime.")
    ] = "cpu",
    workers: Annotated[
        int | None, typer.Option("--workers", help="Threads that decode; up to 4 by default.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Of one operator; all cores by default.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option("--layers", help="Name the first inner tensor that differs: fp16 or int8."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the results of an earlier run.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """The same images through PyTorch, ONNX, engines and Triton: what each hop costs, and the gate.

    Ends with 4 unless everything is within its limits.

    Example: `dfvt-deploy validate dfvt_s_classification --checkpoint DFvT_S_7829.pth --serve
    --dataset imagenet --data imagenet/val --max-drop 0.5`
    """
    with command(debug):
        from ..errors import GateFailed
        from ..evaluate.validation import validate as run

        found = run(
            exports / model,
            checkpoint=checkpoint,
            precisions=precision,
            engines=engine,
            serve=serve,
            repository=repository,
            url=url,
            protocol=protocol,
            served=served,
            dataset=dataset,
            data=data,
            images=images,
            limit=limit,
            max_drop=max_drop,
            against=against,
            device=device,
            workers=workers,
            threads=threads,
            layers=layers,
            fresh=fresh,
        )
        if json_:
            print_json(json.loads(found.model_dump_json()))  # not a number becomes null
        else:
            print_validation(found, exports / model)
        if not found.passed:
            raise GateFailed(f"{model}: {found.outcome}: {found.reason}")
