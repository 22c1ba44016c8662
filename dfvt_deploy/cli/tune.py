from typing import Any

from ..errors import StageFailed
from ..tuning.options import TuneOptions
from .output import Cell, print_json, print_result, print_table
from .parameters import add_command


@add_command(TuneOptions)
def tune(options: TuneOptions) -> None:
    """Find the settings that serve a model best on this machine; `populate` then takes them.

    Tries what passed `validate` on live servers, with every answer checked. Ctrl-C keeps what was
    measured, and the same command goes on from there.

    Example: `dfvt-deploy tune dfvt_s_classification --goal throughput --p99-ms 200`
    """
    from ..artifact import model_command
    from ..tuning.tune import tune as find_settings

    found = find_settings(options)
    print_json(found.model_dump(mode="json"))
    settings = "instances / threads\n/ preprocess / delay us"
    columns = ["", "what\naccuracy", settings, "ms p50 / p99\n/ MB / images/s"]
    rows = [["*" * (row == found.chosen), *_cells(row)] for row in found.rows]
    print_table(f"{options.model} on {found.cores} cores of {found.machine}", columns, rows)
    if found.interrupted:
        raise KeyboardInterrupt
    if found.chosen is None:
        limit = f" with a p99 up to {options.p99_ms:g} ms" if options.p99_ms else ""
        raise StageFailed(f"no server answered right{limit}; the table says what each did")
    best = ", ".join(f"{name} {value}" for name, value in found.chosen.settings.items())
    command = model_command(options.exports / options.model, "populate")
    print_result(f"best of {len(found.rows)}: {best}", command)


def _cells(row: Any) -> list[Cell]:
    backend, precision, *numbers = map(str, row.settings.values())
    figures = row.problem or " / ".join(f"{value:.1f}" for value in row.figures.values())
    return [(f"{backend} {precision}", row.verdict), " / ".join(numbers), figures]
