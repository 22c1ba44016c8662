from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, DfvtError
from ..serving.options import PredictOptions
from .output import browser, print_json, print_line, print_result, print_table
from .parameters import add_command

if TYPE_CHECKING:
    from ..serving.client import Prediction

#: Most answers of one image that are printed.
PRINTED_ROWS = 20


@add_command(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Ask a running Triton server about images.

    An image that cannot be used is named, and the others follow; the exit code is then 2.

    Example: `dfvt-deploy predict cat.jpg --model dfvt_s_classification --protocol http`
    """
    from ..batches.exports import check_export, write_coco
    from ..serving.client import image_paths

    images = image_paths(options.images)
    documents: list[dict[str, Any]] = []
    failures: list[DfvtError] = []
    going_on = replace(options, save=Path("drawn")).command_line()
    try:
        for answer, picture in _answers(options, images, failures):
            if options.coco:
                check_export("--coco", answer.task)
            documents.append(answer.as_json())
            if picture:
                documents[-1]["saved"] = str(picture)
                going_on = browser(picture)
            print_prediction(answer, picture)
    finally:  # The answers before a failure are not lost.
        print_json(documents)
    if options.coco:
        write_coco(documents, map(str, images), options.coco)
    if documents:
        print_result(f"{len(documents)} of {len(images)} images were answered", going_on)
    if failures:
        if len(images) == 1:
            raise failures[0]
        lines = (line for error in failures for line in error.args)
        raise BadInput(f"{len(failures)} of {len(images)} images have no answer:", *lines)


def _answers(
    options: PredictOptions, images: Sequence[Path], failures: list[DfvtError]
) -> Iterator["tuple[Prediction, Path | None]"]:
    """Ask about each image, save its picture where pictures are wanted, and show the progress. The
    errors of single images go to `failures`."""
    from ..drawing import DRAWN_SCORE
    from ..progress import image_bar
    from ..serving.client import draw_prediction, save_picture
    from ..serving.client import predict as ask

    least = DRAWN_SCORE if options.min_score is None else options.min_score
    taken = {path.resolve() for path in images}
    with image_bar("predict", len(images)) as image_done:

        def failed(_image: str, error: DfvtError) -> None:
            failures.append(error)
            image_done()

        same = ("url", "protocol", "min_score", "timeout")
        chosen = {name: getattr(options, name) for name in same}
        chosen |= {"version": options.model_version, "failed": failed}
        for answer in ask(images, options.model, **chosen):
            picture = None
            if options.save:
                drawn = draw_prediction(answer, least)
                picture = save_picture(drawn, answer.image, options.save, taken)
            image_done()
            yield answer, picture


def print_prediction(prediction: "Prediction", saved: Path | None = None) -> None:
    """Print the best answers for one image, and where its picture was saved."""
    from ..drawing import drawing_of

    drawing = drawing_of(prediction.task)
    rows = drawing.rows(prediction.outputs)
    print_result(
        f"{prediction.image}: {', '.join(rows[0][1:]) if rows else 'nothing found'} "
        f"({prediction.milliseconds:.1f} ms, {prediction.bytes_sent:,} bytes sent, "
        f"{prediction.bytes_received:,} received)"
    )
    print_table("", drawing.columns, rows[:PRINTED_ROWS])
    if len(rows) > PRINTED_ROWS:
        print_line(f"and {len(rows) - PRINTED_ROWS} more; --json gives all")
    if saved:
        print_line(f"saved {saved}")
