"""Train DFvT-T on scikit-learn's handwritten digits, a classifier that has learnt.

    python -m examples.train_digits OUTPUT

The digits are 1,797 real scans of 8x8 pixels, shipped in scikit-learn's wheel. They are enlarged
and coloured: red ink on blue paper of the same green, so that swapped channels turn an image into
its negative. Every fourth is held out. OUTPUT then holds

    digits_t.pth       the checkpoint, in the published layout
    labels.txt         the ten class names
    heldout/<digit>/   the images that were not trained on, as PNG, one folder a class

and the model goes on as any other:

    dfvt-deploy export --variant t --checkpoint OUTPUT/digits_t.pth --labels OUTPUT/labels.txt \\
        --name digits
    dfvt-deploy validate digits --dataset imagenet --data OUTPUT/heldout --max-drop 1
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dfvt_deploy.files import write_text
from dfvt_deploy.models.build import build_model
from dfvt_deploy.tasks.classification import preprocess

from .training import Schedule, Stopwatch, normalised, reproducible, save_checkpoint, train

CLASSES = tuple("0123456789")

#: Sides in pixels: an image, and the digit in its middle, which the centre crop leaves whole.
IMAGE_SIDE, DIGIT_SIDE = 64, 48

INK, PAPER = (210, 110, 40), (40, 110, 210)

#: Every which digit is held out.
HELD_OUT = 4

#: The training set is seen one and a half times, which is enough for digits.
SCHEDULE = Schedule(steps=130, batch=16, learning_rate=2e-3)


@dataclass(frozen=True)
class TrainedDigits:
    """What was written, and how good it is.

    accuracy: share of the held-out images that are right, 0 to 1.
    seconds, cpu_seconds: of making the images, training and testing.
    """

    checkpoint: Path
    labels: Path
    heldout: Path
    accuracy: float
    seconds: float
    cpu_seconds: float


def train_digits(output: Path, seed: int = 0) -> TrainedDigits:
    """Train, test on what was held out, and write all to `output`."""
    clock = Stopwatch()
    images, classes = digit_images(seed)
    held = np.arange(len(images)) % HELD_OUT == HELD_OUT - 1
    with reproducible(seed):
        model = build_model("classification", "t", len(CLASSES))
        pixels, truth = _network_pixels(images[~held]), torch.from_numpy(classes[~held])

        def loss_of(chosen: Tensor) -> Tensor:
            logits = model(normalised(pixels[chosen]))
            return F.cross_entropy(logits, truth[chosen], label_smoothing=0.1)

        train(model, loss_of, len(pixels), SCHEDULE)
        answers = _answers(model, _network_pixels(images[held]))
    checkpoint, labels, heldout = (
        output / name for name in ("digits_t.pth", "labels.txt", "heldout")
    )
    save_checkpoint(model, checkpoint, "model")
    write_text(labels, "\n".join(CLASSES) + "\n")
    _write_folders(heldout, images, classes, np.flatnonzero(held))
    accuracy = float(np.mean(answers == classes[held]))
    return TrainedDigits(checkpoint, labels, heldout, accuracy, clock.wall, clock.cpu)


def digit_images(seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All digits as uint8 RGB (1797, 64, 64, 3), and their classes int64 (1797,)."""
    from sklearn.datasets import load_digits

    scans, classes = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    margin = (IMAGE_SIDE - DIGIT_SIDE) // 2
    images = np.empty((len(scans), IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
    for image, scan in zip(images, scans, strict=True):
        grey = Image.fromarray((scan.reshape(8, 8) * (255 / 16)).astype(np.uint8))
        enlarged = grey.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
        strength = np.pad(np.asarray(enlarged) / 255, margin)[:, :, None]
        ink, paper = (colour + rng.normal(0, 12, 3) for colour in np.array([INK, PAPER]))
        image[:] = (paper + strength * (ink - paper)).clip(0, 255)
    return images, classes.astype(np.int64)


def _network_pixels(images: NDArray[np.uint8]) -> Tensor:
    """uint8 RGB (N, 224, 224, 3), as the served model's preprocessing makes them."""
    return torch.from_numpy(np.stack([preprocess(Image.fromarray(image)) for image in images]))


def _answers(model: nn.Module, pixels: Tensor) -> NDArray[np.int64]:
    with torch.no_grad():
        logits = [model(normalised(part)) for part in torch.split(pixels, SCHEDULE.batch)]
    return torch.cat(logits).argmax(dim=1).numpy()


def _write_folders(
    directory: Path,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    chosen: NDArray[np.int64],
) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for name in CLASSES:
        (directory / name).mkdir(parents=True)
    for i in chosen:
        Image.fromarray(images[i]).save(directory / CLASSES[classes[i]] / f"{i:04}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    trained = train_digits(parser.parse_args().output)
    print(
        f"{trained.accuracy:.2%} of the held-out digits are right; "
        f"{trained.seconds:.0f} s, {trained.cpu_seconds:.0f} s of CPU\n{trained.checkpoint}"
    )


if __name__ == "__main__":
    main()
