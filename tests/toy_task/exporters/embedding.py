"""How the toy network is exported and checked."""

from ..tasks.embedding import INPUT_SIZE
from ..types import Task
from .recipe import ExportRecipe

_SIZE = (INPUT_SIZE, INPUT_SIZE)

RECIPE = ExportRecipe(
    task=Task.EMBEDDING,
    size=_SIZE,
    checked=((1, *_SIZE), (3, *_SIZE)),
    dynamic_outputs=lambda _: {"embedding": {0: "batch"}},
    preprocessing={
        "resize": f"to {INPUT_SIZE}x{INPUT_SIZE}",
        "interpolation": "Pillow BICUBIC",
    },
    refused={"static": "is not for embedding", "logits": "is not for embedding"},
)
