"""The model of `quickstart --example digits`: DFvT-T that learns scikit-learn's handwritten digits.

The digits are 1,797 real scans of 8x8 pixels, shipped in scikit-learn's wheel. They are enlarged
and coloured: red ink on blue paper of the same green, so that swapped channels turn an image into
its negative.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import optional
from ..files import locked, staged, write_text
from ..models.build import build_model
from ..progress import steps_bar
from ..tasks.classification import preprocess
from ..tasks.images import normalise
from .training import Schedule, Training

CLASSES = tuple("0123456789")

#: Pixels of a digit's side, and of the paper around it, which the centre crop cuts instead.
DIGIT_SIDE, MARGIN = 48, 8

INK, PAPER = (210, 110, 40), (40, 110, 210)

#: The training set is seen one and a half times, which is enough for digits.
SCHEDULE = Schedule(steps=130, batch=16, learning_rate=2e-3)


class DigitFiles(NamedTuple):
    """A trained model: its checkpoint in the published layout, the text file of its ten class
    names, and the folder of the images that were not trained on, with one folder a class."""

    checkpoint: Path
    labels: Path
    heldout: Path


def digit_files(folder: Path, seed: int = 0) -> DigitFiles:
    """The trained model in a folder. It is trained first where the folder has no checkpoint, with a
    progress bar; MissingDependency without scikit-learn then."""
    files = DigitFiles(folder / "digits_t.pth", folder / "labels.txt", folder / "heldout")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not files.checkpoint.is_file():
            _train(files, seed)
    return files


def _train(files: DigitFiles, seed: int) -> None:
    images, classes = digit_images(seed)
    held = np.arange(len(images)) % 4 == 3  # every fourth
    shutil.rmtree(files.heldout, ignore_errors=True)
    for i in np.flatnonzero(held):
        folder = files.heldout / CLASSES[classes[i]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(folder / f"{i:04}.png")
    write_text(files.labels, "\n".join(CLASSES) + "\n")
    learnt, truth = images[~held], torch.from_numpy(classes[~held])
    with torch.random.fork_rng(devices=[]), steps_bar() as bar:
        torch.manual_seed(seed)
        model = build_model("classification", "t", len(CLASSES))

        def loss_of(chosen: Tensor) -> Tensor:
            logits = model(network_input(learnt[chosen.numpy()]))
            return F.cross_entropy(logits, truth[chosen], label_smoothing=0.1)

        steps = Training(model, len(learnt), SCHEDULE).steps(loss_of)
        for _ in bar.track(steps, SCHEDULE.steps, description="digits: training"):
            pass
    with staged(files.checkpoint) as temporary:  # last: it says that the rest is there
        torch.save({"model": model.state_dict()}, temporary)


def digit_images(seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All digits as uint8 RGB (1797, 64, 64, 3), and their classes int64 (1797,)."""
    scans, classes = optional("sklearn.datasets").load_digits(return_X_y=True)
    rng, images = np.random.default_rng(seed), []
    for scan in scans:
        grey = Image.fromarray((scan.reshape(8, 8) * (255 / 16)).astype(np.uint8))
        enlarged = grey.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC)
        strength = np.pad(np.asarray(enlarged) / 255, MARGIN)[:, :, None]
        ink, paper = (colour + rng.normal(0, 12, 3) for colour in np.array([INK, PAPER]))
        images.append((paper + strength * (ink - paper)).clip(0, 255).astype(np.uint8))
    return np.stack(images), classes.astype(np.int64)


def network_input(images: NDArray[np.uint8]) -> Tensor:
    """uint8 RGB (N, H, W, 3) to float32 (N, 3, 224, 224), as the served model makes it."""
    pixels = np.stack([preprocess(Image.fromarray(image)) for image in images])
    return torch.from_numpy(normalise(pixels))
