"""Composed images for the detection example: shapes that overlap and that the border cuts.

Every image is drawn from its shapes, so each shape's visible pixels, and with them its mask and its
box, are known exactly.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from dfvt_deploy.evaluate.datasets.sample import AnnotatedObject
from dfvt_deploy.files import write_text
from dfvt_deploy.tasks import rle
from dfvt_deploy.tasks.detection import preprocess

from .train_shapes import shape

CLASSES = ("disc", "square", "triangle", "ring", "cross")

#: Least and most pixels of an image's side, and of a shape's radius.
SIDES, RADII = (96, 160), (13, 30)

#: Least and most shapes that are tried for each image; one that would hide others is left out.
SHAPES = (2, 7)

#: Share of a shape's pixels that stays visible under the shapes over it and within the border.
LEAST_VISIBLE = 0.4

WARM, COLD = (190, 110, 60), (70, 105, 170)


@dataclass(frozen=True)
class Scene:
    """An image and what is on it.

    image: uint8 RGB (H, W, 3).
    labels: int64 (n,) class ids.
    masks: bool (n, H, W), the visible pixels of each object; no pixel belongs to two objects.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class Example:
    """A scene as the network sees it in training.

    pixels: uint8 RGB (canvas height, canvas width, 3), resized and padded as the served model does.
    size: int64 (2,), height and width of the image within the canvas.
    labels: int64 (n,).
    boxes: float32 (n, 4), xyxy in pixels of the canvas.
    masks: bool (n, canvas height, canvas width).
    """

    pixels: NDArray[np.uint8]
    size: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]
    masks: NDArray[np.bool_]


def compose(rng: np.random.Generator) -> Scene:
    """A scene with one to seven shapes, each later one over the earlier ones."""
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    image = texture(rng, height, width, COLD)
    labels: list[int] = []
    masks: list[NDArray[np.bool_]] = []
    least: list[float] = []  # pixels of each shape that must stay visible
    tries = int(rng.integers(SHAPES[0], SHAPES[1] + 1))
    while tries > 0 or not masks:
        tries -= 1
        class_id = int(rng.integers(len(CLASSES)))
        visible, whole = _placed(rng, CLASSES[class_id], height, width)
        shown = [*(mask & ~visible for mask in masks), visible]
        wanted = [*least, LEAST_VISIBLE * whole]
        if any(mask.sum() < pixels for mask, pixels in zip(shown, wanted, strict=True)):
            continue
        masks, least = shown, wanted
        labels.append(class_id)
        _paint(rng, image, visible)
    image += rng.normal(0, 5, image.shape)
    return Scene(image.clip(0, 255).astype(np.uint8), np.array(labels, np.int64), np.stack(masks))


def texture(
    rng: np.random.Generator, height: int, width: int, colour: ArrayLike
) -> NDArray[np.float64]:
    """A ground of about this RGB colour, float (height, width, 3): blotches, waves and a tint."""
    row, col = np.mgrid[:height, :width]
    waves = np.sin((rng.uniform(-30, 30) * col + rng.uniform(-30, 30) * row) / 96)
    coarse = rng.normal(0, 1, (int(rng.integers(3, 12)), int(rng.integers(3, 12)))).astype(
        np.float32
    )
    blotches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    relief = rng.uniform(0, 14) * waves + rng.uniform(5, 20) * blotches
    ground: NDArray[np.float64] = np.array(colour) + rng.normal(0, 18, 3) + relief[:, :, None]
    return ground


def _placed(
    rng: np.random.Generator, name: str, height: int, width: int
) -> tuple[NDArray[np.bool_], int]:
    """A shape somewhere on the image, perhaps beyond its border: its pixels within the image, bool
    (height, width), and the number of pixels that it has as a whole."""
    radius, margin = rng.uniform(*RADII), RADII[1]
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    row, col = np.mgrid[-margin : height + margin, -margin : width + margin] + 0.5
    inside = shape(name, (col - x) / radius, (row - y) / radius)
    return inside[margin:-margin, margin:-margin], int(inside.sum())


def _paint(rng: np.random.Generator, image: NDArray[np.float64], where: NDArray[np.bool_]) -> None:
    """Fill these pixels with a warm colour, with a darker rim that parts overlapping shapes."""
    fill = texture(rng, where.shape[0], where.shape[1], np.array(WARM) + rng.normal(0, 20))
    inner = cv2.erode(where.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    image[where] = 0.6 * fill[where]
    image[inner] = fill[inner]


def example(scene: Scene, canvas: tuple[int, int]) -> Example:
    """The scene prepared with the preprocessing of the served model at a fixed canvas."""
    pixels, size, original = preprocess(Image.fromarray(scene.image), canvas)
    height, width = size.tolist()
    masks = np.zeros((len(scene.masks), *canvas), np.bool_)
    for i, mask in enumerate(scene.masks):
        resized = cv2.resize(
            mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
        )
        masks[i, :height, :width] = resized >= 0.5
    scale = (size / original)[[1, 0, 1, 0]]
    boxes = (np.stack([box_of(mask) for mask in scene.masks]) * scale).astype(np.float32)
    return Example(pixels, size, scene.labels, boxes, masks)


def box_of(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The box xyxy of a mask's pixels, (4,): from the first pixel's edge to the last one's."""
    rows, cols = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    return np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1], np.float64)


def mirrored(one: Example) -> Example:
    """The example with left and right exchanged within the image; the padding stays where it is."""
    height, width = one.size.tolist()
    pixels, masks, boxes = one.pixels.copy(), one.masks.copy(), one.boxes.copy()
    pixels[:height, :width] = one.pixels[:height, :width][:, ::-1]
    masks[:, :, :width] = one.masks[:, :, :width][:, :, ::-1]
    boxes[:, [0, 2]] = width - one.boxes[:, [2, 0]]
    return Example(pixels, one.size, one.labels, boxes, masks)


def annotated_objects(scene: Scene) -> list[AnnotatedObject]:
    """The objects of a scene as a dataset holds them."""
    size = scene.image.shape[0], scene.image.shape[1]
    found = []
    for label, mask in zip(scene.labels.tolist(), scene.masks, strict=True):
        left, top, right, bottom = box_of(mask).tolist()
        box = (left, top, right - left, bottom - top)
        runs = rle.encode(mask, 0, 0, size)
        found.append(AnnotatedObject(label, box, float(mask.sum()), False, runs))
    return found


def write_coco(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write `images/*.png` and `annotations/instances_<name of the directory>.json`, COCO's format.

    Ids of images, objects and categories begin at 1, as in COCO.
    """
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for i, scene in enumerate(scenes, 1):
        name = f"{i:03}.png"
        Image.fromarray(scene.image).save(directory / "images" / name)
        height, width = scene.image.shape[:2]
        images.append({"id": i, "file_name": name, "height": height, "width": width})
        for thing in annotated_objects(scene):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": i,
                    "category_id": thing.class_id + 1,
                    "bbox": thing.box,
                    "area": thing.area,
                    "iscrowd": 0,
                    "segmentation": thing.segmentation,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": objects, "categories": categories}
    write_text(directory / "annotations" / f"instances_{directory.name}.json", json.dumps(content))
