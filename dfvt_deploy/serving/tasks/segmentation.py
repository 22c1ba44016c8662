"""Serving segmentation: a PNG of class ids for each image, and the names of the classes."""

from . import ORIGINAL_SIZES, Answer, ServedTask

SERVED = ServedTask(
    network_outputs=("class_map",),
    answers=(
        Answer("class_map", "bytes", ("batch", 1)),
        Answer("labels", "string", ("batch", "classes")),
    ),
    max_batch_size=4,
    answer_options=lambda _manifest, _k, pixels: {"max_pixels": pixels},
    carried=(ORIGINAL_SIZES,),
    on_request=("labels",),
    arena=False,
)
