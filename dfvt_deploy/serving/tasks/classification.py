"""Serving classification: the best k classes of each image."""

from ...tasks.classification import TOP_K
from . import Answer, ServedTask

SERVED = ServedTask(
    network_outputs=("logits",),
    answers=(
        Answer("class_ids", "int32", ("batch", "k")),
        Answer("scores", "float32", ("batch", "k")),
        Answer("labels", "string", ("batch", "k")),
    ),
    max_batch_size=64,
    answer_options=lambda manifest, k, _pixels: {"k": min(k or TOP_K, manifest.num_classes)},
    scored=("class_ids", "scores", "labels"),
    top_k=True,
    instances=2,
)
