"""The numbers of a vector below its image."""

from PIL import Image, ImageDraw, ImageOps

from . import Answers, TaskDrawing
from .canvas import scaled


def draw(
    image: Image.Image, answers: Answers, _min_score: float = 0.0, side: int | None = None
) -> Image.Image:
    """The image above a line with its vector."""
    image = scaled(image, side)
    drawn = ImageOps.expand(image.convert("RGB"), border=(0, 0, 0, 20), fill="white")
    numbers = " ".join(f"{value:.2f}" for value in answers["embedding"])
    ImageDraw.Draw(drawn).text((4, image.height + 4), numbers, fill="black")
    return drawn


def rows(answers: Answers) -> list[list[str]]:
    """Position and value of each element."""
    return [[str(i), f"{value:.6f}"] for i, value in enumerate(answers["embedding"])]


DRAWING = TaskDrawing(draw, ("element", "value"), rows)
