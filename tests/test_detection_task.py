"""Preprocessing and masks of detections, without a network."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dfvt_deploy.tasks import detection, rle

REFERENCE = Path(__file__).parent / "reference"


def random_image(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("width", "height", "resized", "canvas"),
    [
        (640, 480, (800, 1067), (800, 1088)),
        (480, 640, (1067, 800), (1088, 800)),
        (1920, 1080, (750, 1333), (768, 1344)),
        (1, 1, (800, 800), (800, 800)),
        (1, 8000, (1333, 1), (1344, 32)),
        (8000, 1, (1, 1333), (32, 1344)),
    ],
)
def test_resize_keeps_the_ratio_and_pads_to_32(width, height, resized, canvas):
    image = random_image(width, height)
    pixels, image_size, original_size = detection.preprocess(image)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*canvas, 3)
    assert (tuple(image_size), tuple(original_size)) == (resized, (height, width))
    assert image_size.dtype == original_size.dtype == np.int64
    expected = cv2.resize(np.asarray(image), resized[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(pixels[: resized[0], : resized[1]], expected)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1, 8000), (6000, 300)])
def test_static_canvas_limits_the_size(size):
    pixels, image_size, _ = detection.preprocess(random_image(*size), canvas=(320, 416))
    assert pixels.shape == (320, 416, 3)
    assert (image_size >= 1).all()
    assert (image_size <= (320, 416)).all()
    assert image_size[0] == 320 or image_size[1] == 416
    with pytest.raises(ValueError, match="multiples of 32"):
        detection.preprocess(random_image(*size), canvas=(300, 416))


@pytest.mark.parametrize("variant", ["t", "s", "b"])
def test_masks_equal_the_published_encoding(variant):
    golden = np.load(REFERENCE / f"golden_det_{variant}.npz")
    image_size, original_size = golden["img_shape"][:2], golden["ori_shape"][:2]
    result = detection.postprocess(
        golden["boxes"][:10] * golden["scale_factor"],
        golden["scores"][:10],
        golden["labels"][:10],
        golden["mask_probs"][:10],
        image_size,
        original_size,
    )
    assert [mask["counts"] for mask in result.masks] == golden["rle_counts"].tolist()
    assert all(mask["size"] == golden["rle_size"].tolist() for mask in result.masks)
    np.testing.assert_array_equal(result.boxes, golden["boxes"][:10])


def test_boxes_return_to_the_sent_image_and_unused_rows_go():
    boxes = np.array([[10, 20, 30, 40], [0, 0, 1067, 800], [0, 0, 0, 0]], np.float32)
    result = detection.postprocess(
        boxes,
        np.array([0.9, 0.8, 0], np.float32),
        np.array([3, 0, -1]),
        np.ones((3, 28, 28), np.float32),
        np.array([800, 1067]),
        np.array([480, 640]),
    )
    scale = np.array([1067 / 640, 800 / 480] * 2, np.float32)
    np.testing.assert_array_equal(result.boxes, boxes[:2] / scale)
    assert result.labels.tolist() == [3, 0]
    assert rle.decode(result.masks[1]).mean() > 0.999  # all but the corners
    none = detection.postprocess(
        boxes[2:],
        np.zeros(1),
        np.array([-1]),
        np.zeros((1, 28, 28)),
        np.array([800, 1067]),
        np.array([480, 640]),
    )
    assert (len(none.boxes), none.masks) == (0, ())


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 0), (40, 5, 40, 20), (10.5, 10.5, 10.5, 10.5), (0, 30, 40, 30), (5, 5, 5, 30)]
)
def test_boxes_without_area_paste(box):
    mask = detection.paste_mask(np.ones((28, 28)), np.array(box, np.float32), (30, 40))
    assert rle.decode(mask).shape == (30, 40)


def masks_to_encode():
    rng = np.random.default_rng(0)
    for density in (0, 0.03, 0.5, 0.97, 1):
        for _ in range(20):
            yield rng.random(rng.integers(1, 50, 2)) < density
    corner = np.zeros((700, 900), np.bool_)
    corner[-1, -1] = True
    yield corner


def test_encoding_round_trips_and_equals_pycocotools():
    for mask in masks_to_encode():
        encoded = rle.encode(mask, 0, 0, mask.shape)
        np.testing.assert_array_equal(rle.decode(encoded), mask)
    from pycocotools import mask as coco

    for mask in masks_to_encode():
        expected = coco.encode(np.asfortranarray(mask, np.uint8))
        assert rle.encode(mask, 0, 0, mask.shape)["counts"] == expected["counts"].decode()


def test_encoding_a_part_equals_encoding_the_whole():
    part = np.random.default_rng(1).random((9, 7)) < 0.6
    for top, left in ((0, 0), (4, 3), (11, 13)):
        whole = np.zeros((20, 20), np.bool_)
        whole[top : top + 9, left : left + 7] = part
        assert rle.encode(part, top, left, (20, 20)) == rle.encode(whole, 0, 0, (20, 20))
