"""Train DFvT-T with UPerNet on composed images of five shapes, a segmenter that has learnt.

    python -m examples.train_shapes OUTPUT

Each image is 64 to 96 pixels a side and holds one to a few shapes, warm on a cold ground, so that
swapped channels change it thoroughly. The class maps are known, since the images were made from
them; the outlines of the shapes are not annotated. OUTPUT then holds

    shapes_t.pth                  the checkpoint, as mmsegmentation writes it
    labels.txt                    the six class names
    heldout/images/*.png          images that were not trained on
    heldout/annotations/*.png     their class maps: 0 not annotated, else the class id plus 1

and the model goes on as any other, at the canvas that it was trained at:

    dfvt-deploy export --variant t --task segmentation --checkpoint OUTPUT/shapes_t.pth \\
        --labels OUTPUT/labels.txt --static 64x64 --name shapes
    dfvt-deploy validate shapes --dataset ade20k --data OUTPUT/heldout --max-drop 1
"""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dfvt_deploy.files import write_text
from dfvt_deploy.models.backbone import Backbone
from dfvt_deploy.models.build import build_model
from dfvt_deploy.models.task_model import zero_outside
from dfvt_deploy.start.training import Schedule
from dfvt_deploy.tasks.segmentation import postprocess, preprocess

from .training import Stopwatch, normalised, reproducible, save_checkpoint, train

CLASSES = ("ground", "disc", "square", "triangle", "ring", "cross")

#: Images: the least and the most pixels of a side; radius of a shape in pixels.
SIDES, RADII = (64, 96), (13, 20)

#: Places tried for a shape in each image.
TRIES = 8

WARM, COLD = (200, 110, 50), (60, 110, 190)

#: Height and width of the network's input.
CANVAS = (64, 64)

TRAINING, HELD_OUT = 1200, 100

#: Not annotated, in the file and in the loss.
VOID = 0
IGNORED = -1

#: Of the loss of each class; the ground is most of every image.
WEIGHTS = (0.3, 1.0, 1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Composition:
    """An image uint8 RGB (H, W, 3), and its annotation uint8 (H, W) as in the file."""

    image: NDArray[np.uint8]
    annotation: NDArray[np.uint8]


@dataclass(frozen=True)
class TrainedShapes:
    """What was written, and how good it is.

    miou: on the held-out images, 0 to 1.
    seconds, cpu_seconds: of making the images, training and testing.
    """

    checkpoint: Path
    labels: Path
    heldout: Path
    miou: float
    seconds: float
    cpu_seconds: float


def train_shapes(output: Path, seed: int = 0) -> TrainedShapes:
    """Train, test on what was held out, and write all to `output`."""
    clock = Stopwatch()
    rng = np.random.default_rng(seed)
    training = [compose(rng) for _ in range(TRAINING)]
    held = [compose(rng) for _ in range(HELD_OUT)]
    with reproducible(seed):
        model = build_model("segmentation", "t", len(CLASSES))
        _train(model, training)
        miou = mean_iou(model, held)
    checkpoint, labels, heldout = (
        output / name for name in ("shapes_t.pth", "labels.txt", "heldout")
    )
    save_checkpoint(model, checkpoint, "state_dict")
    write_text(labels, "\n".join(CLASSES) + "\n")
    _write_folders(heldout, held)
    return TrainedShapes(checkpoint, labels, heldout, miou, clock.wall, clock.cpu)


def compose(rng: np.random.Generator) -> Composition:
    """A ground of slow waves with as many shapes as fit, none over another or cut off."""
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    row, col = np.mgrid[:height, :width]
    waves = np.sin((rng.uniform(2, 9) * col + rng.uniform(2, 9) * row) / 96 + rng.uniform(0, 6))
    image = np.array(COLD) + rng.normal(0, 15, 3) + 25 * waves[:, :, None]
    annotation = np.ones((height, width), np.uint8)
    for _ in range(TRIES):
        class_id, radius = int(rng.integers(1, len(CLASSES))), rng.uniform(*RADII)
        x, y = (rng.uniform(radius, side - radius) for side in (width, height))
        if (annotation[np.hypot(col - x, row - y) < 1.2 * radius] != 1).any():
            continue
        inside = shape(CLASSES[class_id], (col + 0.5 - x) / radius, (row + 0.5 - y) / radius)
        image[inside] = np.array(WARM) + rng.normal(0, 15, 3)
        annotation[inside] = class_id + 1
        outline = cv2.morphologyEx(
            inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)
        )
        annotation[outline > 0] = VOID
    image += rng.normal(0, 6, image.shape)
    return Composition(image.clip(0, 255).astype(np.uint8), annotation)


def shape(name: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where a shape of radius 1 at the origin is, y pointing down."""
    distance, near, far = np.hypot(x, y), np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
    return {
        "disc": distance < 1,
        "square": far < 0.85,
        "triangle": (y < 0.75) & (y > 1.84 * abs(x) - 1),
        "ring": (distance < 1) & (distance > 0.5),
        "cross": (near < 0.3) & (far < 1),
    }[name]


def _train(model: nn.Module, compositions: list[Composition]) -> None:
    """First the backbone under a light head, which takes a tenth of UPerNet's time, then UPerNet
    on the maps of that backbone."""
    prepared = zip(*(_network_pixels(composition) for composition in compositions), strict=True)
    pixels, sizes, targets = (torch.from_numpy(np.stack(part)) for part in prepared)
    images, weights = zero_outside(normalised(pixels), sizes), torch.tensor(WEIGHTS)
    backbone, head = model.get_submodule("backbone"), model.get_submodule("decode_head")
    light = LightHead(backbone)

    def loss_of(logits: Tensor, chosen: Tensor) -> Tensor:
        logits = F.interpolate(logits, CANVAS, mode="bilinear", align_corners=False)
        return F.cross_entropy(logits, targets[chosen], weights, ignore_index=IGNORED)

    def light_loss(chosen: Tensor) -> Tensor:
        return loss_of(light(images[chosen]), chosen)

    def head_loss(chosen: Tensor) -> Tensor:
        with torch.no_grad():
            maps = backbone(images[chosen])
        return loss_of(head(maps), chosen)

    train(light, light_loss, len(images), Schedule(steps=140, batch=16, learning_rate=4e-3))
    train(head, head_loss, len(images), Schedule(steps=30, batch=8, learning_rate=1e-3))


class LightHead(nn.Module):
    """A 1x1 convolution on each map of a backbone, added up at the finest."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        assert isinstance(backbone, Backbone)
        self.backbone = backbone
        self.heads = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.Conv2d(c, len(CLASSES), 1))
            for c in backbone.config.channels
        )

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float32 (N, 3, H, W) to logits (N, classes, H/4, W/4)."""
        maps = self.backbone(images)
        logits = [head(each) for head, each in zip(self.heads, maps, strict=True)]
        size = maps[0].shape[2:]
        return sum(
            (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in logits[1:]),
            start=logits[0],
        )


def _network_pixels(
    composition: Composition,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The network's input uint8 RGB (64, 64, 3) as the served model's preprocessing makes it, the
    image's size therein int64 (2,), and the class ids of its pixels int64 (64, 64)."""
    pixels, size, _ = preprocess(Image.fromarray(composition.image), CANVAS)
    targets = np.full(CANVAS, IGNORED, np.int64)
    height, width = size.tolist()
    targets[:height, :width] = class_ids(
        cv2.resize(composition.annotation, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    )
    return pixels, size, targets


def class_ids(annotation: NDArray[Any]) -> NDArray[np.int64]:
    """Class ids int64, `IGNORED` where there is none."""
    return annotation.astype(np.int64) - 1


def mean_iou(model: nn.Module, compositions: list[Composition]) -> float:
    """Over all pixels of all images, 0 to 1, as the served model answers."""
    pairs = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for composition in compositions:
        pixels, size, _ = _network_pixels(composition)
        with torch.no_grad():
            logits = model(normalised(torch.from_numpy(pixels[None])), torch.from_numpy(size[None]))
            logits = F.interpolate(logits, CANVAS, mode="bilinear", align_corners=False)
        truth = class_ids(composition.annotation)
        class_map = logits[0].argmax(dim=0).numpy().astype(np.uint8)
        answer = postprocess(class_map, size, np.array(truth.shape))
        annotated = truth != IGNORED
        np.add.at(pairs, (truth[annotated], answer[annotated]), 1)
    both = pairs.diagonal()
    return float(np.mean(both / (pairs.sum(axis=0) + pairs.sum(axis=1) - both)))


def _write_folders(directory: Path, compositions: list[Composition]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for name in ("images", "annotations"):
        (directory / name).mkdir(parents=True)
    for i, composition in enumerate(compositions):
        Image.fromarray(composition.image).save(directory / "images" / f"{i:03}.png")
        Image.fromarray(composition.annotation).save(directory / "annotations" / f"{i:03}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    trained = train_shapes(parser.parse_args().output)
    print(
        f"mIoU of the held-out images is {trained.miou:.1%}; "
        f"{trained.seconds:.0f} s, {trained.cpu_seconds:.0f} s of CPU\n{trained.checkpoint}"
    )


if __name__ == "__main__":
    main()
