"""The best classes of an image in a panel below it."""

from PIL import Image, ImageDraw

from . import Answers, TaskDrawing, text
from .canvas import Font, panel_font, percent, scaled

_BAR, _TRACK = "#2f6fb2", "#e3e8ee"


def draw(
    image: Image.Image, answers: Answers, _min_score: float = 0.0, side: int | None = None
) -> Image.Image:
    """The image above its best classes, with scores and bars of that share of its width."""
    labels, scores = text(answers["labels"]), answers["scores"].tolist()
    image = scaled(image, side)
    size, font = panel_font(image)
    gap, bar = size // 2, max(4, size // 3)
    inside = image.width - 2 * gap
    named = zip(labels, scores, strict=True)
    captions = [_wrapped(f"{percent(score)}  {label}", inside, font) for label, score in named]
    line = size + size // 4
    height = sum(line * len(lines) + bar + gap for lines in captions) + gap
    drawn = Image.new("RGB", (image.width, image.height + height), "white")
    drawn.paste(image, (0, 0))
    pen, top = ImageDraw.Draw(drawn), image.height + gap
    for lines, score in zip(captions, scores, strict=True):
        for words in lines:
            pen.text((gap, top + line / 2), words, fill="black", font=font, anchor="lm")
            top += line
        pen.rectangle((gap, top, gap + inside - 1, top + bar - 1), fill=_TRACK)
        if length := round(score * inside):
            pen.rectangle((gap, top, gap + length - 1, top + bar - 1), fill=_BAR)
        top += bar + gap
    return drawn


def _wrapped(caption: str, width: int, font: Font) -> list[str]:
    """The caption in lines that are at most `width` pixels wide; long words are cut in two."""
    lines = [""]
    for word in caption.split(" "):
        for part in _parts(word, width, font):
            joined = f"{lines[-1]} {part}" if lines[-1] else part
            if font.getlength(joined) <= width or not lines[-1]:
                lines[-1] = joined
            else:
                lines.append(part)
    return lines


def _parts(word: str, width: int, font: Font) -> list[str]:
    parts = [""]
    for letter in word:
        if parts[-1] and font.getlength(parts[-1] + letter) > width:
            parts.append("")
        parts[-1] += letter
    return parts


def rows(answers: Answers) -> list[list[str]]:
    """Class id, label and score of each class."""
    named = zip(answers["class_ids"], text(answers["labels"]), answers["scores"], strict=True)
    return [[str(class_id), label, f"{score:.6f}"] for class_id, label, score in named]


DRAWING = TaskDrawing(draw, ("class", "label", "score"), rows)
