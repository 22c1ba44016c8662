import json
from typing import TYPE_CHECKING

from ..benchmarking.options import BenchOptions
from .output import Cell, print_json, print_line, print_result, print_table
from .parameters import add_command

if TYPE_CHECKING:
    from ..benchmarking.results import Bench, Row, ServedRow


@add_command(BenchOptions)
def bench(options: BenchOptions) -> None:
    """Measure how fast each form of a model is here, beside what it costs in accuracy.

    Times every runtime and precision that exists, in shuffled order; with --serve or --url a live
    Triton server, whose every answer is checked. What did not pass `validate` is shown and never
    recommended. Ctrl-C gives what was measured until then.

    Example: `dfvt-deploy bench dfvt_s_classification --batch 1 --batch 8 --html bench.html`
    """
    from ..benchmarking.bench import bench as measure
    from ..benchmarking.bench import conclusion, write_report

    found = measure(options)
    if options.html:
        write_report(found, options, options.html)
    print_json(json.loads(found.model_dump_json()))
    _print_rows(found)
    for line in found.left_out:
        print_line(f"left out: {line}")
    print_result(*conclusion(found, options))
    if found.interrupted:
        raise KeyboardInterrupt


def _print_rows(found: "Bench") -> None:
    title = f"on {found.images} images; * is the Pareto front of what passed"
    columns = ["", "what, with", "accuracy", "ms p50\np99", "images/s", "MB"]
    for model in dict.fromkeys(row.model for row in found.offline):
        rows = [[*_cells(row), _ratio(row)] for row in found.offline if row.model == model]
        around = found.around_ms.get(model)
        beside = "; preprocess {:.1f} ms, postprocess {:.1f} ms".format(*around) if around else ""
        print_table(f"{model} {title}{beside}", [*columns, "ratio"], rows)
    for model in dict.fromkeys(row.model for row in found.served):
        served = [row for row in found.served if row.model == model]
        rows = [[*_cells(row), _answers(row)] for row in served]
        print_table(f"{model} served, {title}", [*columns, "right, wrong\nfailed"], rows)
        print_table(
            "milliseconds of a request in each step, cores kept busy",
            ["with", "program", "queue", "input", "compute", "output", "cores", "MB"],
            [line for row in served for line in _programs(row)],
        )


def _cells(row: "Row") -> list[Cell]:
    rate = f"{row.images_per_second:.1f}"
    return [
        "*" if row.front else "",
        (row.title, row.setting),
        row.verdict if row.loss is None else (row.verdict, f"drop {row.loss:.2f}"),
        (f"{row.p50.median:.1f}", f"{row.p99:.1f}"),
        rate if row.throughput == row.images_per_second else (rate, f"good {row.throughput:.1f}"),
        _figure(row.memory_mb, 0),
    ]


def _ratio(row: "Row") -> Cell:
    ratio = row.ratio
    return (f"{ratio.median:.2f}", f"{ratio.low:.2f}-{ratio.high:.2f}") if ratio else ""


def _answers(row: "ServedRow") -> Cell:
    ratio = f"ratio {row.ratio.median:.2f}" if row.ratio else ""
    notes = (ratio, "" if row.stable else "not stable")
    return (f"{row.right}, {row.wrong}", str(row.failed), *filter(None, notes))


def _programs(row: "ServedRow") -> list[list[Cell]]:
    return [
        [
            row.setting,
            name,
            *(_figure(ms, 2) for ms in (each.queue, each.input, each.compute, each.output)),
            _figure(each.cores, 2),
            _figure(each.memory_mb, 0),
        ]
        for name, each in row.programs.items()
    ]


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
