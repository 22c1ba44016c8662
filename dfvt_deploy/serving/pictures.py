"""Predictions drawn on their images and saved."""

from pathlib import Path

from PIL import Image

from ..drawing import DRAWN_SCORE, drawing_of
from ..errors import BadInput
from ..files import staged
from ..tasks.images import MOST_PIXELS, ImageLimits, decode_image
from .client import Prediction, read_image

#: The server that answered has its own limits.
_ANY_SIZE = ImageLimits(max_bytes=2**31, max_pixels=MOST_PIXELS)


def draw_prediction(prediction: Prediction, min_score: float = DRAWN_SCORE) -> Image.Image:
    """The image of a prediction with the answers in it, detections only from `min_score`. Raises
    BadInput where the image cannot be read any more."""
    image = decode_image(read_image(prediction.image), _ANY_SIZE)
    return drawing_of(prediction.task).draw(image, prediction.outputs, min_score)


def save_picture(image: Image.Image, source: str, directory: Path, taken: set[Path]) -> Path:
    """Save an image as `<directory>/<name of source>.png`, with a number where that is among the
    resolved paths `taken`, which the saved path is added to. Raises BadInput where the directory is
    a file."""
    if directory.exists() and not directory.is_dir():
        raise BadInput(f"--save {directory} is not a folder")
    stem = Path(source).stem
    path, number = directory / f"{stem}.png", 1
    while path.resolve() in taken:
        number += 1
        path = directory / f"{stem}-{number}.png"
    with staged(path) as temporary:
        image.save(temporary, "PNG")
    taken.add(path.resolve())
    return path
