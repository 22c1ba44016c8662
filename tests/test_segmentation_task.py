"""Segmentation before and after the network: sizes, padding, class maps, PNG."""

import cv2
import numpy as np
import pytest
from PIL import Image

from dfvt_deploy.tasks.dense import resized_size
from dfvt_deploy.tasks.images import MAX_SIDE, ImageError
from dfvt_deploy.tasks.segmentation import (
    LONG_SIDE,
    SHORT_SIDE,
    decode_class_map,
    encode_class_map,
    postprocess,
    postprocess_batch,
    preprocess,
)


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng([width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "resized", "canvas"),  # (width, height), then (height, width)
    [
        ((640, 480), (512, 683), (512, 704)),
        ((480, 640), (683, 512), (704, 512)),
        ((512, 512), (512, 512), (512, 512)),
        ((2000, 400), (410, 2048), (416, 2048)),
        ((1, 1), (512, 512), (512, 512)),
        ((8000, 1), (1, 2048), (32, 2048)),
        ((1, 8000), (2048, 1), (2048, 32)),
        ((3, 10), (1707, 512), (1728, 512)),
    ],
)
def test_published_resize_and_own_canvas(size, resized, canvas):
    image = noise(*size)
    pixels, image_size, original_size = preprocess(image)
    assert pixels.dtype == np.uint8
    assert image_size.dtype == original_size.dtype == np.int64
    assert pixels.shape == (*canvas, 3)
    assert tuple(image_size) == resized
    assert tuple(original_size) == size[::-1]
    wanted = cv2.resize(np.asarray(image), resized[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(pixels[: resized[0], : resized[1]], wanted)
    assert not pixels[resized[0] :].any()
    assert not pixels[:, resized[1] :].any()


def test_the_largest_photograph_stays_within_the_published_size():
    pixels, image_size, original_size = preprocess(Image.new("RGB", (8000, 6000), "red"))
    assert pixels.shape == (512, 704, 3)
    class_map = np.ones((512, 704), np.uint8)
    assert postprocess(class_map, image_size, original_size).shape == (6000, 8000)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1, 1), (5000, 3), (100, 4000)])
@pytest.mark.parametrize("canvas", [(512, 512), (32, 64), (512, 2048)])
def test_fixed_canvas_limits_the_scale(size, canvas):
    pixels, (height, width), _ = preprocess(noise(*size), canvas)
    assert pixels.shape == (*canvas, 3)
    assert 1 <= height <= canvas[0]
    assert 1 <= width <= canvas[1]
    free_height, free_width = resized_size(size[1], size[0], LONG_SIDE, SHORT_SIDE)
    if free_height <= canvas[0] and free_width <= canvas[1]:
        assert (height, width) == (free_height, free_width)
    else:
        assert height == canvas[0] or width == canvas[1]


@pytest.mark.parametrize("canvas", [(500, 512), (512, 0), (-32, 32)])
def test_canvas_must_be_of_multiples_of_32(canvas):
    with pytest.raises(ValueError, match="multiples of 32"):
        preprocess(noise(8, 8), canvas)


@pytest.mark.parametrize("size", [(MAX_SIDE + 1, 1), (0, 5)])
def test_refused_sizes_are_named_with_the_limit(size):
    with pytest.raises(ImageError, match=rf"{size[0]}x{size[1]}.*65,535"):
        preprocess(Image.new("RGB", size))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_postprocess_crops_and_takes_the_nearest(dtype):
    class_map = np.random.default_rng(0).integers(0, 150, (64, 96)).astype(dtype)
    found = postprocess(class_map, np.array([50, 90]), np.array([123, 211]))
    rows = ((np.arange(123) + 0.5) * 50 / 123).astype(int)
    cols = ((np.arange(211) + 0.5) * 90 / 211).astype(int)
    assert found.dtype == dtype
    assert np.array_equal(found, class_map[rows][:, cols])


@pytest.mark.parametrize(
    ("num_classes", "dtype", "bits"), [(150, np.uint8, 8), (256, np.int32, 8), (300, np.int32, 16)]
)
def test_class_map_png(num_classes, dtype, bits):
    class_map = np.arange(num_classes).repeat(4).reshape(4, -1).astype(dtype)
    data = encode_class_map(class_map, num_classes)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (data[24], data[25]) == (bits, 0)  # bit depth, greyscale
    assert np.array_equal(decode_class_map(data), class_map)


@pytest.mark.parametrize("worst", [-1, 19])
def test_class_ids_out_of_range_are_not_encoded(worst):
    with pytest.raises(ValueError, match=r"outside 0\.\.18"):
        encode_class_map(np.array([[0, worst]], np.int32), 19)


def test_other_pictures_are_no_class_maps():
    _, colour = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ImageError, match="RGB"):
        decode_class_map(colour.tobytes())
    with pytest.raises(ImageError, match="not a PNG"):
        decode_class_map(b"nothing")


def test_only_the_wanted_answers_are_made():
    outputs = {
        "class_map": np.zeros((2, 32, 32), np.uint8),
        "image_sizes": np.full((2, 2), 32),
        "original_sizes": np.full((2, 2), 10),
    }
    found = postprocess_batch(outputs, ["wall", "ä"])
    assert found["labels"].tolist() == [[b"wall", "ä".encode()]] * 2
    assert decode_class_map(found["class_map"][1, 0]).shape == (10, 10)
    assert postprocess_batch(outputs, ["wall"], wanted={"class_map"}).keys() == {"class_map"}
    assert postprocess_batch({"class_map": np.zeros(1)}, ["a"], wanted={"labels"}).keys() == {
        "labels"
    }
