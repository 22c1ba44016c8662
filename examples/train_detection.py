"""Train DFvT-T Mask R-CNN on composed images of five shapes, a detector that has learnt.

    python -m examples.train_detection OUTPUT

Each image is 96 to 160 pixels a side. Its shapes overlap and are cut by the border, on a ground
with texture. The backbone learns first, by naming single shapes; then the whole detector learns.
Interrupted training goes on from OUTPUT/training.pt at the next call. OUTPUT then holds

    detector_t.pth    the checkpoint, as mmdetection writes it
    labels.txt        the five class names
    heldout/          images that were not trained on, and annotations/instances_heldout.json
    calibration/      the first images that were trained on, for converted files

and the model goes on as any other, at the canvas that it was trained at:

    dfvt-deploy export --variant t --task detection --checkpoint OUTPUT/detector_t.pth \\
        --labels OUTPUT/labels.txt --static 128x128 --name detector
    dfvt-deploy convert detector --precision fp16 --calibration OUTPUT/calibration/images
    dfvt-deploy validate detector --checkpoint OUTPUT/detector_t.pth \\
        --dataset coco --data OUTPUT/heldout --max-drop 1

Average precision needs pycocotools: pip install 'dfvt-deploy[export,validate]', which the extra
`examples` brings too.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dfvt_deploy.errors import BadInput
from dfvt_deploy.evaluate.datasets.sample import DetectionTruth, Sample
from dfvt_deploy.evaluate.metrics import metric_of
from dfvt_deploy.files import write_text
from dfvt_deploy.models.backbone import Backbone
from dfvt_deploy.models.build import build_model
from dfvt_deploy.models.checkpoint import load_checkpoint
from dfvt_deploy.models.detection import MaskRCNN
from dfvt_deploy.models.task_model import zero_outside
from dfvt_deploy.start.training import Schedule
from dfvt_deploy.tasks import detection
from dfvt_deploy.types import Task

from .detection_data import (
    CLASSES,
    Example,
    Scene,
    annotated_objects,
    compose,
    example,
    mirrored,
    write_coco,
)
from .detection_losses import Sampler, Sampling, Truth, losses
from .training import Stopwatch, normalised, reproducible, save_checkpoint, train

#: Height and width of the network's input.
CANVAS = (128, 128)

#: Side in pixels of the single shapes that the backbone names, and a margin around each.
SHAPE_SIDE, SHAPE_MARGIN = 64, 3


@dataclass(frozen=True)
class Recipe:
    """scenes, heldout: images to train on and to test on. naming: the backbone's schedule on single
    shapes. detecting: the detector's."""

    scenes: int
    heldout: int
    naming: Schedule
    detecting: Schedule


#: Images to calibrate on; convert takes 16 for FP16 and 32 for INT8.
CALIBRATION = 32

#: The share of steps that the learning rate rises over is short, since the backbone has learnt.
FULL = Recipe(
    scenes=1500,
    heldout=200,
    naming=Schedule(steps=60, batch=32, learning_rate=2e-3),
    detecting=Schedule(steps=900, batch=4, learning_rate=1e-3, warm_up=0.1, clip=5),
)

#: For tests: average precision well above zero after a tenth of the time.
SHORT = Recipe(
    scenes=400,
    heldout=24,
    naming=Schedule(steps=40, batch=32, learning_rate=2e-3),
    detecting=Schedule(steps=100, batch=4, learning_rate=1e-3, warm_up=0.1, clip=5),
)

#: Examples are fewer than mmdetection's, since an image of 128x128 pixels holds 1.5 % of the pixels
#: that mmdetection's figures are for. The mask head takes most of the time for each proposal.
SAMPLING = Sampling(roi_sampler=Sampler(64, 0.25), before_nms=256, masked_rois=5)


@dataclass(frozen=True)
class TrainedDetector:
    """What was written, and the time that it took.

    seconds, cpu_seconds: of making the images and training.
    """

    checkpoint: Path
    labels: Path
    heldout: Path
    calibration: Path
    seconds: float
    cpu_seconds: float


def train_detection(output: Path, recipe: Recipe = FULL, seed: int = 0) -> TrainedDetector:
    """Train, and write the checkpoint, the labels and what was held out to `output`.

    Raises:
        BadInput: `output` holds the state of a training with another recipe or seed.
    """
    clock = Stopwatch()
    output.mkdir(parents=True, exist_ok=True)
    state, settings = output / "training.pt", output / "training.txt"
    _check_settings(state, settings, f"{recipe}, {SAMPLING}, seed {seed}\n")
    examples = [example(scene, CANVAS) for scene in training_scenes(recipe.scenes, seed)]
    with reproducible(seed):
        model = build_model("detection", "t", len(CLASSES))
        assert isinstance(model, MaskRCNN)
        if not state.is_file():
            initialise(model)
            _train_backbone(model.backbone, examples, recipe.naming)
        train(model, _DetectionLoss(model, examples), len(examples), recipe.detecting, state)
    trained = TrainedDetector(
        checkpoint=output / "detector_t.pth",
        labels=output / "labels.txt",
        heldout=output / "heldout",
        calibration=output / "calibration",
        seconds=clock.wall,
        cpu_seconds=clock.cpu,
    )
    save_checkpoint(model, trained.checkpoint, "state_dict")
    write_text(trained.labels, "\n".join(CLASSES) + "\n")
    write_coco(trained.heldout, heldout_scenes(recipe.heldout))
    write_coco(trained.calibration, training_scenes(CALIBRATION, seed))
    state.unlink(missing_ok=True)
    return trained


def _check_settings(state: Path, settings: Path, wanted: str) -> None:
    if state.is_file() and settings.read_text(encoding="utf-8") != wanted:
        raise BadInput(
            f"{state} is of a training with other settings, {settings} has them; remove {state} or "
            "name another folder"
        )
    write_text(settings, wanted)


def training_scenes(count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng([seed, 0])
    return [compose(rng) for _ in range(count)]


def heldout_scenes(count: int) -> list[Scene]:
    """Scenes to test on, the same for all seeds of the training."""
    rng = np.random.default_rng([0, 1])
    return [compose(rng) for _ in range(count)]


def initialise(model: MaskRCNN) -> None:
    """Set the weights outside the backbone as mmdetection does before training."""
    for name, module in model.named_modules():
        if name.startswith("backbone") or not isinstance(
            module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d
        ):
            continue
        nn.init.zeros_(module.get_parameter("bias"))
        if name.startswith("rpn_head") or name.endswith("fc_cls"):
            nn.init.normal_(module.weight, std=0.01)
        elif name.endswith("fc_reg"):
            nn.init.normal_(module.weight, std=0.001)
        elif name.startswith("roi_head.mask_head"):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(module.weight)


class NamingHead(nn.Module):
    """Class logits from the mean of each of a backbone's maps."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Linear(c, len(CLASSES)) for c in backbone.config.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised float32 (N, 3, H, W) to logits (N, classes) of each map."""
        maps = self.backbone(images)
        return [head(x.mean((2, 3))) for head, x in zip(self.heads, maps, strict=True)]


def _train_backbone(backbone: Backbone, examples: Sequence[Example], schedule: Schedule) -> None:
    """Classification of single shapes, each cut out of its scene; every map learns it."""
    cut = torch.from_numpy(np.stack([shape for one in examples for shape in _cut_out(one)]))
    labels = torch.from_numpy(np.concatenate([one.labels for one in examples]))
    head = NamingHead(backbone)

    def loss_of(chosen: Tensor) -> Tensor:
        logits = head(normalised(cut[chosen]))
        return torch.stack([F.cross_entropy(x, labels[chosen]) for x in logits]).mean()

    train(head, loss_of, len(cut), schedule)


def _cut_out(one: Example) -> list[NDArray[Any]]:
    """Each object's box and a margin around it, resized to uint8 RGB (64, 64, 3)."""
    height, width = one.size.tolist()
    parts = []
    for left, top, right, bottom in one.boxes.round().astype(int).tolist():
        rows = slice(max(0, top - SHAPE_MARGIN), min(height, bottom + SHAPE_MARGIN))
        cols = slice(max(0, left - SHAPE_MARGIN), min(width, right + SHAPE_MARGIN))
        parts.append(cv2.resize(one.pixels[rows, cols], (SHAPE_SIDE, SHAPE_SIDE)))
    return parts


class _DetectionLoss:
    """The sum of Mask R-CNN's losses on chosen examples, half of which are mirrored."""

    def __init__(self, model: MaskRCNN, examples: Sequence[Example]) -> None:
        self.model = model
        self.examples = examples

    def __call__(self, chosen: Tensor) -> Tensor:
        own = [self.examples[i] for i in chosen.tolist()]
        flip = (torch.rand(len(own)) < 0.5).tolist()
        own = [mirrored(one) if turn else one for one, turn in zip(own, flip, strict=True)]
        truths = [Truth.of(one) for one in own]
        parts = losses(self.model, *network_inputs(own), truths, SAMPLING)
        return torch.stack(list(parts.values())).sum()


def network_inputs(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Normalised float32 (N, 3, H, W), zero outside the images, and image sizes int64 (N, 2)."""
    pixels = torch.from_numpy(np.stack([one.pixels for one in examples]))
    sizes = torch.from_numpy(np.stack([one.size for one in examples]))
    return zero_outside(normalised(pixels), sizes), sizes


def average_precision(model: MaskRCNN, heldout: Sequence[Scene]) -> dict[str, float]:
    """`box_ap`, `mask_ap` and more, 0 to 100, of what the served model would answer."""
    metric, results = metric_of(Task.DETECTION), []
    for i, scene in enumerate(heldout):
        one = example(scene, CANVAS)
        with torch.no_grad():
            found = model.detect(*network_inputs([one]))._asdict()
        size = np.array(scene.image.shape[:2])
        sizes = {"image_sizes": one.size[None], "original_sizes": size[None]}
        answers = detection.postprocess_batch(
            {**{k: v.numpy() for k, v in found.items()}, **sizes}, CLASSES
        )
        truth = DetectionTruth(
            (int(size[0]), int(size[1])), tuple(annotated_objects(scene)), CLASSES
        )
        results.append(metric.image_result(answers, Sample(str(i), Path(), truth)))
    return metric.score(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="a tenth of the steps, for tests")
    options = parser.parse_args()
    recipe = SHORT if options.short else FULL
    trained = train_detection(options.output, recipe, options.seed)
    print(f"{trained.seconds:.0f} s, {trained.cpu_seconds:.0f} s of CPU; testing", flush=True)
    model = build_model("detection", "t", len(CLASSES))
    load_checkpoint(model, trained.checkpoint)
    assert isinstance(model, MaskRCNN)
    held = heldout_scenes(recipe.heldout)
    for name, figure in average_precision(model, held).items():
        print(f"{name} {figure:.1f}")
    print(trained.checkpoint)


if __name__ == "__main__":
    main()
