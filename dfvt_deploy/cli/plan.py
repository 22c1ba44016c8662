from dataclasses import asdict
from typing import TYPE_CHECKING

from ..capacity.options import PlanOptions
from .output import print_json, print_result, print_table
from .parameters import add_command

if TYPE_CHECKING:
    from ..capacity.planning import Plan


@add_command(PlanOptions)
def plan(options: PlanOptions) -> None:
    """Tell how many servers a rate of images needs, and what they cost.

    Simulates the queues of one server under random arrivals, from measured times of its steps, and
    adds the servers that may be down. docs/capacity.md tells what FIGURES holds.

    Example: `dfvt-deploy plan figures.json --rate 500 --p99-ms 200 --price 0.17`
    """
    from ..capacity.planning import plan as plan_servers

    found = plan_servers(options)
    print_json(asdict(found))
    print_table(f"{found.model} on {found.machine}", ["", ""], _rows(found, options))
    chart = "deploy/helm/dfvt-deploy --reuse-values"  # else --set resets all other values
    print_result(
        f"{found.servers} servers answer {found.rate:g} images a second",
        f"helm upgrade dfvt {chart} --set replicas={found.servers}",
    )


def _rows(found: "Plan", options: PlanOptions) -> list[tuple[str, str]]:
    busy = ", ".join(f"{name} {share:.0%}" for name, share in found.busy.items())
    down = found.servers - found.least
    rate = f"{found.server_rate:.1f} images/s with a p99 of {options.p99_ms:g} ms"
    rows = [
        ("one server takes", rate),
        ("servers for the rate", f"{found.least}, each {busy} busy"),
        ("servers that may be down", f"{down}, each up for {options.server_availability:.2%}"),
        ("p50, p99", f"{found.p50_ms:.0f}, {found.p99_ms:.0f} ms"),
        ("cores, GPUs", f"{found.cores}, {found.gpus}"),
    ]
    if found.per_hour is not None:
        cost = f"{found.per_hour:,.2f} an hour, {found.per_million:,.2f} for a million images"
        rows.append(("cost", cost))
    return rows
