from pathlib import Path

from ..explaining.options import ExplainOptions
from .output import Cell, browser, print_json, print_result, print_table
from .parameters import add_command


@add_command(ExplainOptions)
def explain(options: ExplainOptions) -> None:
    """Draw what an answer rests on, with figures of how far to believe each map.

    Example: `dfvt-deploy explain cat.jpg --model dfvt_s_classification --top 2`
    """
    from ..explaining.explain import explain as explain_images

    found = explain_images(options)
    print_json([each.as_json() for each in found])
    rows: list[list[Cell]] = []
    for each in found:
        figures = [f"{value:.3f}" for value in each.faithfulness]
        figures += [f"{each.sanity:+.3f}", f"{each.agreement:+.3f}"]
        rows.append([(Path(each.image).name, each.target), each.source, *figures])
    columns = ["image\ntarget", "map", "deletion", "insertion", "figure", "random weights"]
    print_table("Heat maps (docs/explain.md)", [*columns, "agreement"], rows)
    text = f"{len(found)} maps, pictures and arrays in {options.output}"
    print_result(text, browser(found[0].picture if found else options.output))
