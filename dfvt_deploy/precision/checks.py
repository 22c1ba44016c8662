"""What a converted file must be before it takes its place: lower precision, and like FP32."""

from collections.abc import Sequence
from pathlib import Path

from ..compare import Comparison
from ..compare.agreement import Limit, checks
from ..engines.layers import LEAST_SHARE
from ..errors import StageFailed
from ..manifest import Check
from ..progress import warn
from ..runners import open_network
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..types import Precision
from .conversions import Conversion
from .fp16 import OperatorCounts
from .graph_tensors import LAYERS
from .kept_nodes import KeptNodes

#: Images on which every tensor inside a good FP16 network is examined.
_EXAMINED = 2


def require_layers(name: str, counts: OperatorCounts, precision: Precision) -> None:
    """Raise StageFailed where no layer has the precision; warn where `build-trt` wants more."""
    rows = [row for operator, row in counts.items() if operator in LAYERS]
    total = sum(sum(row.values()) for row in rows)
    found = sum(row.get(precision, 0) for row in rows)
    if not found:
        raise StageFailed(
            f"none of the {total} layers of {name} would compute in {precision}: that is the "
            "float32 model under another name, so it was not written. Keep less with --keep-fp32, "
            "search with other limits, or raise --data-max"
        )
    if found < LEAST_SHARE[precision] * total:
        warn(
            f"{name}: {found} of {total} layers compute in {precision}, "
            f"build-trt wants {LEAST_SHARE[precision]:.0%}"
        )


def compare_with_fp32(
    conversion: Conversion,
    kept: KeptNodes,
    file: Path,
    comparison: Comparison,
    limits: Sequence[Limit],
    precision: Precision,
) -> tuple[Check, ...]:
    """Run the file in the runtime of its conversion beside FP32, and FP16 also with every tensor
    rounded; the checks that were made, which all passed. Raises StageFailed where a limit does not
    hold, or a value is not finite."""
    done: tuple[Check, ...] = ()
    if precision is Precision.FP16:
        trial = conversion.trial(kept)
        with OnnxRuntimeRunner(trial.SerializeToString()) as runner:
            agreement = comparison.agreement(runner)
        done = checks(agreement, limits, "FP16, each tensor rounded, against FP32")
        # Values that are not finite inside need not show in the outputs: some images are examined
        # in any case, and all where a limit does not hold.
        good = all(check.passed for check in done)
        examined = comparison.feeds[: _EXAMINED if good else None]
        if error := conversion.overflow_inside(trial, kept, examined):
            raise error
    with open_network(file, conversion.runtime, precision) as runner:
        agreement = comparison.agreement(runner)
    done += checks(agreement, limits, f"{precision} file in {conversion.runtime} against FP32")
    for check in done:
        if not check.passed:
            raise StageFailed(
                f"{check}; the file was not written. Keep more with --keep-fp32, look for what "
                "with --search nodes, or give another --min-agreement"
            )
    return done
