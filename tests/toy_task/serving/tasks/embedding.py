"""Serving embeddings: one vector for each image."""

from . import Answer, ServedTask

SERVED = ServedTask(
    network_outputs=("embedding",),
    answers=(Answer("embedding", "float32", ("batch", "classes")),),
    max_batch_size=16,
    answer_options=lambda _manifest, _k, _pixels: {},
)
