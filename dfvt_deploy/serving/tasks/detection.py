"""Serving detection: 100 rows for each image, boxes and masks at the size of the sent image."""

from ...tasks.detection import ROWS
from . import ORIGINAL_SIZES, Answer, ServedTask

_ROWS = ("batch", ROWS)

SERVED = ServedTask(
    network_outputs=("boxes", "scores", "labels", "masks"),
    answers=(
        Answer("boxes", "float32", (*_ROWS, 4)),
        Answer("scores", "float32", _ROWS),
        Answer("class_ids", "int32", _ROWS),
        Answer("labels", "string", _ROWS),
        Answer("masks", "string", _ROWS),
        Answer("num_detections", "int32", ("batch", 1)),
    ),
    max_batch_size=4,
    answer_options=lambda _manifest, _k, pixels: {"max_pixels": pixels},
    carried=(ORIGINAL_SIZES,),
    scored=("boxes", "scores", "class_ids", "labels", "masks"),
    row_count="num_detections",
    arena=False,
)
