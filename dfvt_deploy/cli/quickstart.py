from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..serving.options import ServeOptions
from ..start.options import QuickstartOptions
from .export import print_export
from .output import print_json, print_line, print_result, print_table
from .parameters import add_command
from .predict import print_prediction

if TYPE_CHECKING:
    from ..start.quickstart import QuickstartResult

#: Of a held-out image.
_COLUMNS = ("image", "truth", "answer", "score")


@add_command(QuickstartOptions)
def quickstart(options: QuickstartOptions) -> None:
    """Take one model from export to a live server's answers.

    The server listens on free loopback ports and is asked over HTTP and over gRPC. Fails unless
    both answers are equal. With --example the model learns first, and its answers are shown beside
    the truth.

    Example: `dfvt-deploy quickstart --example digits`
    """
    from ..start.quickstart import quickstart as run_steps

    result = run_steps(options)
    print_json(_document(result))
    _print_result(result, options)


def _document(result: "QuickstartResult") -> dict[str, Any]:
    return {
        "manifest": result.artifact.manifest.model_dump(mode="json", exclude={"labels"}),
        "version": result.populated.version,
        "http": result.http.as_json(),
        "grpc": result.grpc.as_json(),
        "heldout": [dict(zip(_COLUMNS, row, strict=True)) for row in result.heldout],
        "missing": result.missing,
        "seconds": {step: round(value, 3) for step, value in result.seconds.items()},
    }


def _print_result(result: "QuickstartResult", options: QuickstartOptions) -> None:
    manifest = result.artifact.manifest
    if options.verbose:
        print_export(result.artifact)
        rows = [[step, f"{seconds:.2f}"] for step, seconds in result.seconds.items()]
        print_table("Steps", ["step", "seconds"], rows)
    answers = "the answers over HTTP and over gRPC are equal"
    if result.heldout:
        rows = [
            [f"{truth}/{Path(image).name}", truth, answer, f"{score:.4f}"]
            for image, truth, answer, score in result.heldout
        ]
        title = f"{Path(result.grpc.image).parent.parent}: images that were not trained on"
        print_table(title, _COLUMNS, rows)
        answers = f"{result.right} of {len(rows)} held-out images are right, over HTTP as over gRPC"
    else:
        print_prediction(result.grpc)
    if not manifest.trained:
        print_line("The weights are untrained, so the answers mean nothing.")
        print_line("Give --checkpoint for trained ones, or --example digits.")
        if result.missing:
            print_line(result.missing)
    print_result(
        f"{manifest.name} version {result.populated.version}: exported, compared with PyTorch and "
        f"served in {sum(result.seconds.values()):.0f} s; {answers}; picture: {options.picture}",
        ServeOptions(repository=options.repository).command_line(),
    )
