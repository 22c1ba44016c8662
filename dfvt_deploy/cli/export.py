from typing import TYPE_CHECKING

from ..exporters.options import ExportOptions
from .exit_codes import for_each
from .output import print_json, print_line, print_result
from .parameters import add_command

if TYPE_CHECKING:
    from ..artifact import Artifact


@add_command(ExportOptions)
def export(options: ExportOptions) -> None:
    """Export a PyTorch model to a checked ONNX file.

    Writes `exports/NAME/model.onnx` and `manifest.json` after a comparison with PyTorch. A failure
    leaves an earlier export as it was. Goes on past a model that fails.

    Example: `dfvt-deploy export --variant s --checkpoint DFvT_S_7829.pth`
    """
    from ..exporters.export import export as export_model

    models = {model.model_name: model for model in options.models()}

    def show(artifact: "Artifact") -> None:
        print_export(artifact, artifact.command("populate"))

    with for_each(models, export_model, show) as done:
        documents = [artifact.manifest.model_dump(mode="json") for artifact in done]
        print_json(documents if len(models) > 1 else documents[0])


def print_export(artifact: "Artifact", next_command: str | None = None) -> None:
    """Print the size of the graph, each comparison, and the file."""
    manifest = artifact.manifest
    graph = manifest.graph
    nodes, before = (sum(kind.values()) for kind in (graph.operators, graph.operators_before))
    print_line(f"{manifest.name}: {nodes} nodes, {before} before onnxsim, opset {graph.opset}")
    for check in manifest.checks:
        print_line(str(check))
    times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in manifest.seconds.items())
    for name, record in manifest.files.items():
        text = f"{artifact.directory / name}: {record.size / 1e6:.1f} MB ({times})"
        print_result(text, next_command)
