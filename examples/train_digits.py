"""Train DFvT-T on scikit-learn's handwritten digits, a classifier that has learnt.

    python -m examples.train_digits OUTPUT

`dfvt-deploy quickstart --example digits` trains the same model and serves it; see
dfvt_deploy/start/digits.py for the images. Every fourth is held out. OUTPUT then holds

    digits_t.pth       the checkpoint, in the published layout
    labels.txt         the ten class names
    heldout/<digit>/   the images that were not trained on, as PNG, one folder a class

and the model goes on as any other:

    dfvt-deploy export --variant t --checkpoint OUTPUT/digits_t.pth --labels OUTPUT/labels.txt \\
        --name digits
    dfvt-deploy validate digits --dataset imagenet --data OUTPUT/heldout --max-drop 1

A checkpoint that is there is tested and not trained again.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dfvt_deploy.models.build import build_model
from dfvt_deploy.models.checkpoint import load_checkpoint
from dfvt_deploy.start.digits import CLASSES, SCHEDULE, digit_files, network_input

from .training import Stopwatch, reproducible


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
    with reproducible(seed):
        files = digit_files(output, seed)
    paths = sorted(files.heldout.glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    model = build_model("classification", "t", len(CLASSES))
    load_checkpoint(model, files.checkpoint)
    batches = [images[i : i + SCHEDULE.batch] for i in range(0, len(images), SCHEDULE.batch)]
    with reproducible(seed), torch.no_grad():
        answers = (
            torch.cat([model(network_input(batch)) for batch in batches]).argmax(dim=1).tolist()
        )
    right = [path.parent.name == CLASSES[i] for path, i in zip(paths, answers, strict=True)]
    return TrainedDigits(*files, float(np.mean(right)), clock.wall, clock.cpu)


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
