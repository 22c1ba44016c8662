import json
from typing import TYPE_CHECKING

from ..evaluate.options import ValidateOptions
from .output import Cell, browser, print_json, print_line, print_result, print_table
from .parameters import add_command

if TYPE_CHECKING:
    from ..evaluate.results import TensorComparison, Validation


@add_command(ValidateOptions)
def validate(options: ValidateOptions) -> None:
    """Pass the same images through PyTorch, ONNX, engines and Triton, and judge what each loses.

    Ends with 4 unless the model passes: too much accuracy was lost, or it could not be decided.

    Example: `dfvt-deploy validate dfvt_s_classification --checkpoint DFvT_S_7829.pth --serve
    --dataset imagenet --data imagenet/val --max-drop 0.5`
    """
    from ..errors import GateFailed
    from ..evaluate.validation import validate as validate_model

    found = validate_model(options)
    print_json(json.loads(found.model_dump_json()))  # a number that is not finite becomes null
    _print_validation(found, options)
    if not found.passed:
        raise GateFailed(f"{options.model}: {found.outcome}: {found.reason}")


def _print_validation(found: "Validation", options: ValidateOptions) -> None:
    from ..artifact import model_command
    from ..evaluate.report import shown_checks

    scored = [found.metric, "drop"] if found.metric else []
    rows: list[list[Cell]] = []
    for stage in found.stages:
        scores = []
        if found.metric:
            scores.append(f"{stage.scores[found.metric]:.2f}" if stage.scores else "")
            bound = f" (bound {stage.gate.upper_bound:.2f})" if stage.gate else ""
            scores.append("" if stage.drop is None else f"{stage.drop:.2f}{bound}")
        both = (stage.step_checks, stage.total_checks)
        checks = [tuple(map(str, shown_checks(each))) for each in both]
        outcome = f"{stage.outcome}, culprit" if stage.name == found.culprit else stage.outcome
        rows.append([stage.name, stage.source or "", *checks, *scores, outcome])
    print_table(
        f"{found.model} on {found.images:,} images of {found.dataset}: figures and their limits",
        ["stage", "compared with", "difference", "from the reference", *scored, "outcome"],
        rows,
    )
    for left_out in found.not_run:
        print_line(f"not run: {left_out.name}: {left_out.reason}")
    for image in found.unjudged:
        print_line(f"not judged: {image.image}, refused by {image.stage}: {image.reason}")
    if found.layers:
        print_line(_format_tensors(found.layers))
    for text in found.notes:
        print_line(text)
    report = options.directory / found.reports["html"]
    print_line(f"report: {report}")
    culprit = f", culprit: {found.culprit}" if found.culprit else ""
    words = ["--require-validated", *(["--fast-decode"] if options.fast_decode else [])]
    command = model_command(options.directory, "populate", *words)
    going_on = command if found.passed else browser(report)
    print_result(f"{found.outcome}{culprit}: {found.reason}", going_on)


def _format_tensors(layers: "TensorComparison") -> str:
    compared = f"{layers.compared} inner tensors of {layers.file}"
    if layers.first is None:
        return f"{compared}: all within {layers.limit:g} of their largest value"
    first = layers.first
    bad = f", {first.non_finite} values not finite" if first.non_finite else ""
    return (
        f"{compared}: the first beyond {layers.limit:g} of its largest value is {first.tensor} "
        f"({first.operator}), max absolute {first.max_abs:.3g}, relative {first.max_rel:.3g}{bad}"
    )
