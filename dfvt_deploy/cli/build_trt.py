from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..engines.options import BuildOptions
from ..serving.backend_names import BackendName
from ..serving.options import PopulateOptions
from .output import print_json, print_result, print_table
from .parameters import add_command

if TYPE_CHECKING:
    from ..precision.build_engines import BuildResult


@add_command(BuildOptions)
def build_trt(options: BuildOptions) -> None:
    """Build TensorRT engines of exported models, each with a record of what it holds.

    A model that was not converted to the precision is converted first. The command fails when
    fewer than half of an fp16 engine's compute layers compute in float16. Without a GPU or
    TensorRT it prints the container command that builds the same engines.

    Example: `dfvt-deploy build-trt dfvt_s_classification --target tritonserver:26.07`
    """
    from ..errors import StageFailed
    from ..precision.build_engines import build_engines

    done = build_engines(options)
    failed = [built.error for built in done if built.error is not None]
    if len(done) == 1 and failed:
        raise failed[0]
    print_json([built.as_json() for built in done])
    _print_built(done)
    if done and not failed:
        serving = PopulateOptions(
            models=tuple(sorted({built.model for built in done})),
            exports=options.exports,
            backend=BackendName.TENSORRT,
            precision=done[0].precision,
            flavor=options.flavor,
        )
        print_result(f"{len(done)} engines were built", serving.command_line())
    if failed:
        lines = (line for error in failed for line in error.args)
        raise StageFailed(f"{len(failed)} of {len(done)} failed:", *lines)


def _print_built(done: "Sequence[BuildResult]") -> None:
    rows = []
    for built in done:
        cells = ["failed", "", "", ""]
        if built.engine is not None:
            record = built.engine.record
            counted = record.inspected_layers or record.network_layers
            layers = f"{counted.count(record.precision)} of {counted.total} ({counted.source})"
            cells = [record.plan, f"{record.size / 1e6:.1f}", f"{record.seconds:.1f}", layers]
        rows.append([built.model, str(built.precision), *cells])
    columns = ["model", "precision", "file", "MB", "seconds", "compute layers in it"]
    print_table("Engines", columns, rows)
