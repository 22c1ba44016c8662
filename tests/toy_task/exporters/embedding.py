"""How the toy network is exported and checked."""

from ..manifest import Preprocessing
from ..tasks.embedding import INPUT_SIZE
from ..tasks.images import MEAN, STD
from ..types import InputKind, Task
from .options import ExportOptions
from .recipe import ExportRecipe

_SIZE = (INPUT_SIZE, INPUT_SIZE)


def _preprocessing(options: ExportOptions) -> Preprocessing:
    return Preprocessing(
        resize=f"to {INPUT_SIZE}x{INPUT_SIZE}",
        interpolation="Pillow BICUBIC",
        mean=MEAN,
        std=STD,
        normalised_in_graph=options.input_kind is InputKind.UINT8,
    )


RECIPE = ExportRecipe(
    task=Task.EMBEDDING,
    size=_SIZE,
    checked=((1, *_SIZE), (3, *_SIZE)),
    dynamic_outputs=lambda _: {"embedding": {0: "batch"}},
    preprocessing=_preprocessing,
    refused={"static": "is not for embedding", "logits": "is not for embedding"},
)
