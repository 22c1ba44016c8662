from collections import Counter
from typing import TYPE_CHECKING

from ..precision.options import ConvertOptions
from .exit_codes import for_each
from .output import print_json, print_line, print_result, print_table
from .parameters import add_command

if TYPE_CHECKING:
    from ..precision.convert import Converted


@add_command(ConvertOptions)
def convert(options: ConvertOptions) -> None:
    """Convert exported models to FP16 or INT8.

    Each new file is compared with FP32 before it is written. The command goes on past a model that
    fails.

    Example: `dfvt-deploy convert dfvt_s_classification --precision fp16 --calibration photos`
    """
    from ..artifact import exported_models
    from ..precision.convert import convert_with

    folders = {path.name: path for path in exported_models(options.exports, options.models)}
    with for_each(folders, lambda path: convert_with(path, options), _print_conversion) as done:
        print_json([converted.as_json() for converted in done])


def _print_conversion(converted: "Converted") -> None:
    from ..names import ONNX_FILES
    from ..types import Precision

    record, manifest = converted.record, converted.artifact.manifest
    totals = sum(map(Counter, record.operators.values()), Counter())
    precisions = sorted(totals, key=lambda name: (name == "other", name))  # other is last
    print_table(
        f"{manifest.name}: nodes by precision (other: no floating-point values)",
        ["operator", *precisions],
        [
            [operator, *(str(row.get(precision, "")) for precision in precisions)]
            for operator, row in {**record.operators, "all": totals}.items()
        ],
    )
    print_table(
        "Why nodes stayed in FP32",
        ["reason", "nodes", "operators"],
        [
            [reason, str(sum(row.values())), ", ".join(f"{n} {name}" for name, n in row.items())]
            for reason, row in record.reasons.items()
        ],
    )
    for check in record.checks:
        print_line(str(check))
    before = manifest.files[ONNX_FILES[Precision.FP32]].size
    after = manifest.files[converted.file.name].size
    times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in record.seconds.items())
    print_result(
        f"{converted.file}: {after / 1e6:.1f} MB, {after / before:.0%} of FP32 ({times})",
        converted.artifact.command("validate"),
    )
