"""Answers drawn on their images and as rows of a table."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from dfvt_deploy.data import palette
from dfvt_deploy.drawing import canvas, classification, detection, drawing_of, segmentation
from dfvt_deploy.drawing.detection import place_labels
from dfvt_deploy.tasks.detection import postprocess_batch
from dfvt_deploy.tasks.segmentation import encode_class_map
from dfvt_deploy.types import Task

from .fixtures import photograph


def _segmentation(class_map: np.ndarray, labels: list[str]) -> dict[str, np.ndarray]:
    png = encode_class_map(class_map, len(labels))
    return {"class_map": np.array([png], dtype=np.object_), "labels": np.array(labels)}


def _one_detection(scale: int = 1) -> dict[str, np.ndarray]:
    outputs = {
        "boxes": scale * np.array([[[50, 30, 120, 80]]], np.float32),
        "scores": np.array([[0.9]], np.float32),
        "labels": np.array([[1]]),
        "masks": np.ones((1, 1, 28, 28), np.float32),
        "image_sizes": scale * np.array([[100, 200]]),
        "original_sizes": scale * np.array([[100, 200]]),
    }
    return {k: v[0] for k, v in postprocess_batch(outputs, ["person", "bicycle"]).items()}


@pytest.mark.parametrize("task", Task)
def test_every_task_has_as_many_columns_as_its_rows(task):
    answers = {
        Task.CLASSIFICATION: {
            "class_ids": np.array([7], np.int32),
            "labels": np.array([b"cock"], dtype=np.object_),
            "scores": np.array([0.5], np.float32),
        },
        Task.DETECTION: _one_detection(),
        Task.SEGMENTATION: _segmentation(np.ones((3, 4), np.uint8), ["wall", "sky"]),
    }
    drawing = drawing_of(task)
    (row,) = drawing.rows(answers[task])
    assert len(row) == len(drawing.columns)
    assert row[1] in ("cock", "bicycle", "sky")


def test_classes_are_below_the_image_with_bars_as_long_as_their_scores():
    answers = {"labels": np.array(["cat", "dog", "cow"]), "scores": np.array([0.5, 0.25, 0.0])}
    drawn = classification.draw(photograph(1000, 700), answers)
    assert drawn.width == 1000
    panel = np.asarray(drawn)[700:]
    lengths = sorted({int(n) for n in (panel == (0x2F, 0x6F, 0xB2)).all(-1).sum(1) if n})
    assert len(lengths) == 2
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=1)


def test_long_names_on_narrow_images_are_wrapped_and_not_cut():
    font = ImageFont.load_default(14)
    caption = "12.0%  black and gold garden spider, Argiope " + "aurantia" * 9
    lines = classification._wrapped(caption, 120, font)
    assert "".join(lines).replace(" ", "") == caption.replace(" ", "")
    assert max(font.getlength(line) for line in lines) <= 120


def test_detections_change_only_their_place():
    image = Image.new("RGB", (1000, 500), "grey")
    drawn = np.asarray(detection.draw(image, _one_detection(scale=5)))
    changed = (drawn[:500] != 128).any(-1)
    assert changed[275, 400]
    assert not changed[:, 800:].any()
    assert not changed[450:].any()
    hidden = detection.draw(image, _one_detection(scale=5), min_score=0.95)
    assert hidden.crop((0, 0, 1000, 500)) == image
    with pytest.raises(ValueError, match=r"mask of \(100, 200\) is not of the image's \(50, 50\)"):
        detection.draw(Image.new("RGB", (50, 50)), _one_detection())


def test_a_box_is_seen_on_an_image_of_its_own_colour():
    image = Image.new("RGB", (1000, 500), detection._colours(np.array([1]))[1])
    changed = np.asarray(detection.draw(image, _one_detection(scale=5)))[:500] != np.array(image)
    assert changed.any(-1)[275, 240:260].any() and changed.any(-1)[275, 590:610].any()


def test_small_images_are_enlarged_and_a_side_is_kept():
    assert max(detection.draw(photograph(200, 100), _one_detection()).size) == 640
    assert detection.draw(photograph(200, 100), _one_detection(), side=300).width == 300


@pytest.mark.parametrize("size", [(640, 480), (200, 1000), (90, 90)])
def test_labels_neither_cover_each_other_nor_leave_the_image(size):
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 1, (60, 2)) * size
    boxes = np.concatenate([corners - 40, corners + 40], axis=1).clip(0, [*size, *size])
    sizes = [(int(width), 18) for width in generator.integers(40, 120, 60)]
    places = place_labels(boxes, sizes, size)
    pixels = np.zeros(size[::-1], int)
    placed = [(place, each) for place, each in zip(places, sizes, strict=True) if place]
    assert placed
    for (x, y), (width, height) in placed:
        assert 0 <= x <= size[0] - width and 0 <= y <= size[1] - height
        pixels[y : y + height, x : x + width] += 1
    assert pixels.max() == 1


def test_the_line_from_a_label_to_its_box_crosses_no_other_label(monkeypatch):
    boxes, captions = np.array([[100.0, 60, 250, 290], [2, 8, 290, 290]]), ["first", "second"]
    drawn = []
    for second in ((200, 20), None):  # its line to its box passes over the first label
        places = [(100, 10), second]
        monkeypatch.setattr(detection, "place_labels", lambda *_, places=places: places)
        image = photograph(300, 300)
        left_out = detection._draw_boxes(image, boxes, captions, [(255, 0, 0), (0, 255, 0)])
        assert left_out == [("second", (0, 255, 0))] * (second is None)
        drawn.append(np.array(image))
    assert np.any(drawn[0][12:20, 60:98] != drawn[1][12:20, 60:98]), "no line was drawn"
    assert np.array_equal(drawn[0][12:22, 102:130], drawn[1][12:22, 102:130])


def test_no_two_classes_share_a_colour():
    preferred = np.array([[250, 0, 0], [250, 10, 0], [240, 0, 10], [0, 0, 250]], np.uint8)
    colours = canvas.distinct_colours(np.repeat(preferred, 20, axis=0))
    assert len({tuple(colour) for colour in colours.tolist()}) == 80
    few = canvas.distinct_colours(preferred)
    assert few[0].tolist() == [250, 0, 0]
    apart = np.linalg.norm(canvas._lab(few)[:, None] - canvas._lab(few), axis=-1)
    assert apart[~np.eye(4, dtype=bool)].min() >= 40


def test_class_shares_are_sorted():
    found = segmentation.class_shares(np.array([[2, 2], [0, 2]], np.uint8))
    assert found == [(2, 0.75), (0, 0.25)]


def test_a_class_map_is_blended_and_its_classes_are_in_a_legend():
    class_map = np.zeros((400, 800), np.uint8)
    class_map[:, 100:] = 2
    image = Image.new("RGB", (800, 400), "black")
    drawn = segmentation.draw(image, _segmentation(class_map, ["a", "b", "c"]))
    colours = palette(Task.SEGMENTATION, 3)
    assert drawn.width == 800
    assert drawn.height > 400
    for place, colour in (((0, 0), colours[0]), ((799, 399), colours[2])):
        assert np.abs(np.array(drawn.getpixel(place)) - colour / 2).max() <= 1
    assert drawn.getpixel((100, 200)) == (255, 255, 255)  # the line between the regions
    legend = {c for _, c in drawn.crop((0, 400, 800, drawn.height)).getcolors(2**16)}
    assert {tuple(colours[0].tolist()), tuple(colours[2].tolist())} <= legend
    assert tuple(colours[1].tolist()) not in legend


def test_a_legend_names_the_classes_that_matter_and_counts_the_others():
    shares = [(0, 0.9), (1, 0.09), (2, 0.004), (3, 0.004), (4, 0.002)]
    entries = segmentation._entries(shares, list("abcde"), palette(Task.SEGMENTATION, 5))
    assert [caption for caption, _ in entries] == ["a 90.0%", "b 9.0%", "3 others 1.0%"]


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 2)])
def test_class_maps_of_any_size_are_drawn(size):
    class_map = np.arange(size[0] * size[1]).reshape(size[::-1]).astype(np.uint8) % 150
    drawn = segmentation.draw(photograph(*size), _segmentation(class_map, ["class"] * 150))
    assert drawn.width >= size[0]
    assert drawn.height > size[1]


def test_a_class_map_needs_the_size_of_the_image_and_a_name_for_each_class():
    image = Image.new("RGB", (2, 1))
    answers = _segmentation(np.array([[0, 2]], np.uint8), ["a", "b", "c"])
    with pytest.raises(ValueError, match="class id 2 has no name; there are 2 names"):
        segmentation.draw(image, {**answers, "labels": answers["labels"][:2]})
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(2, 1\)"):
        segmentation.draw(image.resize((1, 2)), answers)
