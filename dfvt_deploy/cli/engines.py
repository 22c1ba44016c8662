"""`build-trt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..exit_codes import command
from ..printing import print_built, print_json
from ..types import Flavor, Precision
from .app import app
from .options import Debug, Json, canvas, choice


@app.command("build-trt")
def build_trt(
    model: Annotated[
        list[str] | None, typer.Argument(help="Names under --exports; all of them by default.")
    ] = None,
    exports: Annotated[Path, typer.Option("--exports", help="Folder of exported models.")] = Path(
        "exports"
    ),
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, fp16, int8, or all that were converted.")
    ] = "fp16",
    flavor: Annotated[
        Flavor, typer.Option("--flavor", help="rtx is TensorRT-RTX, which needs no GPU to build.")
    ] = Flavor.TENSORRT,
    target: Annotated[
        str | None,
        typer.Option("--target", help="tritonserver:YY.MM whose TensorRT it must be."),
    ] = None,
    min_batch: Annotated[int | None, typer.Option("--min-batch", min=1, help="1.")] = None,
    opt_batch: Annotated[
        int | None, typer.Option("--opt-batch", min=1, help="Usual batch: 8, dense tasks 1.")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", min=1, help="Largest batch: 64, dense tasks 4.")
    ] = None,
    min_size: Annotated[
        str | None, typer.Option("--min-size", help="Least HxW of a dense model; 32x32.")
    ] = None,
    opt_size: Annotated[
        str | None,
        typer.Option("--opt-size", help="Usual HxW: detection 800x1088, segmentation 512x704."),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", help="Largest HxW: detection 1344x1344, segmentation 2048x2048"),
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Let float32 layers use TF32.")] = False,
    optimization_level: Annotated[
        int, typer.Option("--optimization-level", min=0, max=5, help="Higher builds longer.")
    ] = 3,
    workspace: Annotated[
        int | None, typer.Option("--workspace", help="Most scratch memory of a layer, in MiB.")
    ] = None,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="For every GPU from 8.0; slower.")
    ] = False,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Loads in later releases too; slower."),
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="A plan that must be refitted before use.")
    ] = False,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option("--compute-capability", help="Such as 8.9, for rtx; may be repeated."),
    ] = None,
    timing_cache: Annotated[
        bool, typer.Option(help="Keep TensorRT's measurements between builds.")
    ] = True,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """TensorRT engines of exported models, each with a record of what it holds.

    Fails when fewer than half of an fp16 engine's compute layers are in half precision. Without a
    GPU or TensorRT it prints the container command that builds the same engines.

    Example: `dfvt-deploy build-trt dfvt_s_classification --target tritonserver:26.07`
    """
    with command(debug):
        from ..artifact import exported_models
        from ..engines import build as library
        from ..engines.profiles import Shapes
        from ..errors import StageFailed

        chosen = None if precision == "all" else choice(Precision, "precision", precision)
        options = library.BuildOptions(
            flavor=flavor,
            target=target,
            shapes=Shapes(
                min_batch,
                opt_batch,
                max_batch,
                canvas(min_size, "--min-size"),
                canvas(opt_size, "--opt-size"),
                canvas(max_size, "--max-size"),
            ),
            tf32=tf32,
            optimization_level=optimization_level,
            workspace_mib=workspace,
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
            strip_weights=strip_weights,
            compute_capabilities=tuple(dict.fromkeys(compute_capability or ())),
            timing_cache=library.timing_cache_directory() if timing_cache else None,
        )
        folders = [exports / name for name in model] if model else exported_models(exports)
        if len(folders) > 1:  # one line for all of them; one alone is looked at first
            library.machine_for(options, exports, model or [], precision)
        done = library.build_engines(folders, chosen, options)
        failed = [built.error for built in done if built.error is not None]
        if len(done) == 1 and failed:
            raise failed[0]
        if json_:
            print_json([built.as_json() for built in done])
        else:
            print_built(done)
        if failed:
            reasons = "; ".join(map(str, failed))
            raise StageFailed(f"{len(failed)} of {len(done)} failed: {reasons}")
