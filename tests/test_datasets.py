"""Datasets: what is taken from them, and what is found wrong before hours are spent."""

import json
import os
import re
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dfvt_deploy.data import class_names
from dfvt_deploy.errors import BadInput
from dfvt_deploy.evaluate.datasets import open_dataset
from dfvt_deploy.evaluate.datasets.ade20k import read_class_map
from dfvt_deploy.evaluate.datasets.imagenet import class_id_by_wnid
from dfvt_deploy.types import Task

from .fixtures import encoded, photograph


def model(task, labels):
    """What a dataset reads of a manifest."""
    return SimpleNamespace(
        name="m", task=Task(task), labels=tuple(labels), num_classes=len(tuple(labels))
    )


IMAGENET = model("classification", class_names(Task.CLASSIFICATION))
COCO = model("detection", class_names(Task.DETECTION))
ADE20K = model("segmentation", class_names(Task.SEGMENTATION))
ANIMALS = model("classification", ["ant", "bee", "cat"])


def image(path, width=24, height=16, format_="PNG", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(photograph(width, height), format_, **options))
    return path


def folders(root, names, images=2):
    for name in names:
        for i in range(images):
            image(root / name / f"{i}.png")
    return root


def problems(kind, data, manifest, limit=None):
    """The lines of the refusal."""
    with pytest.raises(BadInput) as refused:
        open_dataset(kind, data, manifest, limit)
    return str(refused.value)


# ImageNet


def test_wordnet_folders_have_the_published_class_ids(tmp_path):
    names = ["n01440764", "n02123045", "n15075141"]
    dataset = open_dataset("imagenet", folders(tmp_path, names), IMAGENET)
    assert [s.truth.class_id for s in dataset.samples] == [0, 0, 281, 281, 999, 999]
    assert [s.truth.label for s in dataset.samples[::2]] == ["tench", "tabby", "toilet tissue"]
    assert dataset.samples[2].id == "n02123045/0.png"
    assert dataset.notes == ("images of 3 of the model's 1000 classes",)


def test_the_folder_val_is_taken(tmp_path):
    folders(tmp_path / "val", ["ant", "bee", "cat"])
    folders(tmp_path / "train", ["ant"])
    assert len(open_dataset("imagenet", tmp_path, ANIMALS)) == 6


def test_a_limit_takes_the_same_images_of_all_classes(tmp_path):
    folders(tmp_path, ["ant", "bee", "cat"], images=4)
    dataset = open_dataset("imagenet", tmp_path, ANIMALS, limit=6)
    assert " ".join(s.id for s in dataset.samples) == (
        "ant/0.png ant/2.png bee/0.png bee/2.png cat/0.png cat/2.png"
    )
    assert (len(dataset), dataset.available) == (6, 12)
    assert dataset.samples == open_dataset("imagenet", tmp_path, ANIMALS, limit=6).samples
    assert len(open_dataset("imagenet", tmp_path, ANIMALS, limit=99)) == 12


def test_folders_are_the_models_labels(tmp_path):
    folders(tmp_path, ["bee", "cat"])
    dataset = open_dataset("imagenet", tmp_path, ANIMALS)
    assert {s.truth.class_id for s in dataset.samples} == {1, 2}
    folders(tmp_path, ["dog"])
    assert "folder 'dog' is none of the model's labels" in problems("imagenet", tmp_path, ANIMALS)


def test_labels_in_another_order_than_the_folders_are_found(tmp_path):
    folders(tmp_path, ["ant", "bee", "cat"])
    shifted = model("classification", ["bee", "cat", "ant"])
    assert "class 0 is 'bee', in sorted order 'ant'" in problems("imagenet", tmp_path, shifted)


def test_published_labels_shifted_by_one_are_found(tmp_path):
    names = class_names(Task.CLASSIFICATION)
    folders(tmp_path, ["n01440764"])
    text = problems("imagenet", tmp_path, model("classification", names[1:] + names[:1]))
    assert "class 0 is 'goldfish', published is 'tench'" in text


def test_folders_without_the_models_names_are_numbered_in_order(tmp_path):
    folders(tmp_path, ["x", "y", "z"])
    dataset = open_dataset("imagenet", tmp_path, ANIMALS)
    assert [s.truth.class_id for s in dataset.samples] == [0, 0, 1, 1, 2, 2]
    assert "'x' being class 0, 'ant'" in dataset.notes[0]
    folders(tmp_path, ["w"])
    text = problems("imagenet", tmp_path, ANIMALS)
    assert "4 class folders, the model has 3 classes" in text


def test_wordnet_folders_of_a_model_of_other_classes(tmp_path):
    names = sorted(class_id_by_wnid(IMAGENET.labels))[:3]
    folders(tmp_path, names)
    own = model("classification", class_names(Task.CLASSIFICATION)[:3])
    assert len(open_dataset("imagenet", tmp_path, own)) == 6
    text = problems("imagenet", tmp_path, model("classification", own.labels[::-1]))
    assert "is class 0 in sorted order, which the model calls 'great white shark'" in text
    assert "no class of ImageNet-1k" in problems(
        "imagenet", folders(tmp_path, ["n00000001"]), IMAGENET
    )


def numbered(count):
    return model("classification", [f"thing {i}" for i in range(count)])


def test_numeric_folders_are_class_ids(tmp_path):
    """ImageNetV2's folders: 0 to 999, which sort as 0, 1, 10, 100, … when taken for text."""
    folders(tmp_path, [str(i) for i in range(12)], images=1)
    dataset = open_dataset("imagenet", tmp_path, numbered(12))
    assert {s.id: s.truth.class_id for s in dataset.samples} == {f"{i}/0.png": i for i in range(12)}
    assert {s.truth.label for s in dataset.samples if s.id == "10/0.png"} == {"thing 10"}
    assert dataset.notes == (
        "the folders are numbers and are taken as class ids: '0' is class 0, 'thing 0'",
    )
    dataset = open_dataset("imagenet", tmp_path, IMAGENET)
    assert {s.id: s.truth.class_id for s in dataset.samples}["11/0.png"] == 11
    text = problems("imagenet", tmp_path, numbered(11))
    assert "folder 11 is no class id 0..10; class ids begin at 0" in text


def test_numbers_with_leading_zeros_are_class_ids_too(tmp_path):
    folders(tmp_path, ["000", "007", "010"], images=1)
    dataset = open_dataset("imagenet", tmp_path, numbered(11))
    assert [s.truth.class_id for s in dataset.samples] == [0, 7, 10]
    folders(tmp_path, ["7"], images=1)
    assert "'007' and '7' are the same number" in problems("imagenet", tmp_path, numbered(11))


def test_numeric_folders_that_are_labels_are_looked_up(tmp_path):
    folders(tmp_path, ["1", "2", "10"], images=1)
    for labels in (["1", "2", "10"], ["1", "10", "2"]):
        dataset = open_dataset("imagenet", tmp_path, model("classification", labels))
        assert {s.truth.label for s in dataset.samples} == {"1", "2", "10"}
        assert all(s.id == f"{s.truth.label}/0.png" for s in dataset.samples)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["0", "1", "x"], "'0' (a number) and 'x' (a name)"),
        (["n01440764", "n01443537", "x"], "'n01440764' (a WordNet id) and 'x' (a name)"),
        (["0", "1", "n01440764"], "'0' (a number) and 'n01440764' (a WordNet id)"),
        (["0", "1", "-2"], "'-2' (a name) and '0' (a number)"),
    ],
)
def test_folders_of_several_kinds_are_refused(tmp_path, names, shown):
    text = problems("imagenet", folders(tmp_path, names, images=1), ANIMALS)
    assert shown in text
    assert "list file" in text


def test_names_whose_order_is_not_clear_are_refused(tmp_path):
    folders(tmp_path, [f"class{i}" for i in range(12)], images=1)
    text = problems("imagenet", tmp_path, numbered(12))
    assert "class 2 is 'class10' in the order of text, 'class2' in the order of numbers" in text


def test_everything_wrong_with_the_files_is_listed(tmp_path):
    folders(tmp_path, ["ant", "bee"])
    (tmp_path / "cat").mkdir()
    assert f"{tmp_path / 'cat'} holds no image" in problems("imagenet", tmp_path, ANIMALS)
    (tmp_path / "cat" / "zero.png").touch()
    (tmp_path / "cat" / "text.jpg").write_text("<html>not found</html>")
    Image.new("L", (8000, 7000)).save(tmp_path / "cat" / "wide.png")
    text = problems("imagenet", tmp_path, ANIMALS)
    assert "3 problems" in text
    assert "zero.png is empty (0 bytes)" in text
    assert re.search(r"text\.jpg cannot be read", text)
    assert "wide.png has 56,000,000 pixels, the limit is 50,000,000" in text


def test_many_problems_are_counted_and_some_shown(tmp_path):
    for i in range(30):
        (tmp_path / "ant").mkdir(exist_ok=True)
        (tmp_path / "ant" / f"{i}.png").touch()
    text = problems("imagenet", tmp_path, ANIMALS)
    assert "30 problems" in text
    assert "… and 10 more" in text


def test_a_list_file_names_classes_by_id_wordnet_id_or_label(tmp_path):
    for name in ("a.png", "b c.png", "deep/d.png"):
        image(tmp_path / name)
    listing = tmp_path / "val.txt"
    listing.write_text("a.png n01443537\nb c.png 999\n\ndeep/d.png\tgreat white shark\n")
    dataset = open_dataset("imagenet", listing, IMAGENET)
    assert [(s.id, s.truth.class_id) for s in dataset.samples] == [
        ("a.png", 1),
        ("b c.png", 999),
        ("deep/d.png", 2),
    ]
    listing.write_text("a.png 3\na.png 1\nb c.png 0\ndeep/d.png dog\nnone.png 2\n")
    text = problems("imagenet", listing, ANIMALS)
    assert "line 1: '3' is no class id 0..2" in text
    assert "class ids begin at 0" in text
    assert "line 2: a.png is listed twice" in text
    assert "line 4: 'dog'" in text
    listing.write_text("a.png 0\nnone.png 2\n")
    assert "none.png is missing" in problems("imagenet", listing, ANIMALS)
    listing.write_text("\n")
    assert "lists no image" in problems("imagenet", listing, ANIMALS)


def test_lines_of_a_list_file_are_read_as_those_of_a_label_file(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b\u2028c.png")
    listing = tmp_path / "val.txt"
    listing.write_bytes(b"\xef\xbb\xbfa.png 2\r\n")
    (sample,) = open_dataset("imagenet", listing, ANIMALS).samples
    assert (sample.id, sample.truth.class_id) == ("a.png", 2)
    listing.write_text("a.png 2\nb\u2028c.png 1\n")
    text = problems("imagenet", listing, ANIMALS)
    assert "line 2, column 2 is the control character U+2028" in text
    listing.write_text("a.png " + "9" * 5000)
    assert "is no class id 0..2" in problems("imagenet", listing, ANIMALS)
    listing.write_bytes(b"\xff\xfea\0")
    assert "is not UTF-8 text" in problems("imagenet", listing, ANIMALS)


def test_a_flat_folder_needs_a_list(tmp_path):
    image(tmp_path / "a.png")
    assert "has no class folders" in problems("imagenet", tmp_path, ANIMALS)


# COCO


def coco(root, change=lambda content: None, name="instances_val2017.json"):
    """Three images, one without objects, ids and categories in no order."""
    box = {"bbox": [2, 2, 8, 6], "area": 48, "iscrowd": 0, "segmentation": [[2, 2, 10, 2, 10, 8]]}
    content = {
        "images": [
            {"id": 7, "file_name": "c.png", "height": 16, "width": 24},
            {"id": 3, "file_name": "a.png", "height": 16, "width": 24},
            {"id": 5, "file_name": "b.png", "height": 16, "width": 24},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 90, **box},
            {"id": 2, "image_id": 3, "category_id": 1, **box, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 13, **box},
        ],
        "categories": [
            {"id": 90, "name": "toothbrush"},
            {"id": 1, "name": "person"},
            {"id": 13, "name": "stop sign"},
        ],
    }
    change(content)
    for name_ in ("a", "b", "c"):
        image(root / "val2017" / f"{name_}.png")
    path = root / "annotations" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return root


def test_coco_category_ids_become_class_ids(tmp_path):
    dataset = open_dataset("coco", coco(tmp_path), COCO)
    assert [s.id for s in dataset.samples] == ["a.png", "b.png", "c.png"]
    first, second, third = (s.truth for s in dataset.samples)
    assert [o.class_id for o in first.objects] == [79, 0]
    assert [o.crowd for o in first.objects] == [False, True]
    assert second.objects == ()
    assert [o.class_id for o in third.objects] == [11]
    assert first.size == (16, 24)
    assert dataset.notes == (
        "1 of 3 images have no annotation",
        "3 of the model's 80 classes",
    )
    by_file = open_dataset("coco", tmp_path / "annotations" / "instances_val2017.json", COCO, 2)
    assert [s.id for s in by_file.samples] == ["a.png", "b.png"]
    assert (len(by_file), by_file.available) == (2, 3)


def test_coco_classes_of_a_model_of_other_names(tmp_path):
    coco(tmp_path)
    named = model("detection", ["stop sign", "toothbrush", "person"])
    objects = open_dataset("coco", tmp_path, named).samples[0].truth.objects
    assert [o.class_id for o in objects] == [1, 2]
    nameless = model("detection", ["class_0", "class_1", "class_2"])
    objects = open_dataset("coco", tmp_path, nameless).samples[0].truth.objects
    assert [o.class_id for o in objects] == [2, 0]
    assert "3 categories, none named" in problems("coco", tmp_path, model("detection", "ab"))
    text = problems("coco", tmp_path, model("detection", ["person", "b", "c"]))
    assert "category 13 'stop sign' is none of the model's labels" in text
    names = class_names(Task.DETECTION)
    text = problems("coco", tmp_path, model("detection", names[1:] + names[:1]))
    assert "class 0 is 'bicycle', published is 'person'" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"].clear(), "has no annotations"),
        (lambda c: c.pop("images"), "has no images"),
        (lambda c: c["annotations"][0].update(image_id=4), "annotation 1 is of image 4, which is"),
        (lambda c: c["annotations"][1].update(category_id=4), "annotation 2 is of category 4"),
        (lambda c: c["annotations"][1].pop("segmentation"), "annotation 2 has no segmentation"),
        (
            lambda c: c["annotations"][2].update(bbox=[1, 2]),
            "annotation 3 has the bbox [1, 2], not",
        ),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, None, 4]), "None, 4], not 4 numbers"),
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5]]),
            "annotation 1 has the polygon [1, 2, 3, 4, 5], not",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [4, 4], "counts": [16]}),
            "annotation 1 has a segmentation that has the size [4, 4], the image [16, 24]",
        ),
        (lambda c: c["annotations"][2].pop("bbox"), "annotation 3 has no bbox"),
        (lambda c: c["images"][0].update(id=3), "two images have the id 3"),
        (lambda c: c["images"][0].update(height=99), "c.png is 16x24, its annotation says 99x24"),
        (lambda c: c["images"][2].update(file_name="z.png"), "z.png is missing"),
        (lambda c: c["images"][1].update(file_name="z.png"), "the first image of"),
        (lambda c: c["categories"][1].update(name="human"), "category 1 is 'human', in COCO"),
    ],
)
def test_what_is_wrong_with_coco_annotations_is_found(tmp_path, change, message):
    assert message in problems("coco", coco(tmp_path, change), COCO)


def test_coco_sizes_are_those_of_the_upright_image(tmp_path):
    coco(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    image(tmp_path / "val2017" / "a.png", exif=exif)
    assert "a.png is 24x16, its annotation says 16x24" in problems("coco", tmp_path, COCO)


def test_several_annotation_files_must_be_told_apart(tmp_path):
    coco(tmp_path)
    coco(tmp_path, name="instances_train2017.json")
    assert open_dataset("coco", tmp_path, COCO).name == "instances_val2017"
    coco(tmp_path, name="instances_valminusminival.json")
    assert "has several annotation files" in problems("coco", tmp_path, COCO)
    assert "has no instances_*.json" in problems("coco", tmp_path / "val2017", COCO)


# ADE20K


def ade20k(root, maps, split="validation"):
    for i, annotation in enumerate(maps):
        height, width = annotation.shape[:2]
        image(root / "images" / split / f"{i}.jpg", width, height, "JPEG")
        path = root / "annotations" / split / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(annotation).save(path)
    return root


def test_ade20k_class_ids_are_the_annotation_minus_one(tmp_path):
    annotation = np.array([[0, 1, 150], [255, 2, 3]], np.uint8)
    dataset = open_dataset("ade20k", ade20k(tmp_path, [annotation]), ADE20K)
    assert [s.id for s in dataset.samples] == ["0.jpg"]
    assert read_class_map(dataset.samples[0].truth).tolist() == [[-1, 0, 149], [-1, 1, 2]]


def test_ade20k_without_splits_and_with_a_limit(tmp_path):
    maps = [np.full((4, 6), i % 3 + 1, np.uint8) for i in range(9)]
    dataset = open_dataset("ade20k", ade20k(tmp_path, maps, "."), ADE20K, 3)
    assert [s.id for s in dataset.samples] == ["0.jpg", "3.jpg", "6.jpg"]
    assert dataset.available == 9


def test_an_annotation_of_nothing_is_noted_and_all_of_them_refused(tmp_path):
    nothing, something = np.zeros((4, 6), np.uint8), np.ones((4, 6), np.uint8)
    dataset = open_dataset("ade20k", ade20k(tmp_path, [nothing, something]), ADE20K)
    assert dataset.notes == ("1 of 2 images have no pixel with a class",)
    text = problems("ade20k", ade20k(tmp_path, [nothing, nothing]), ADE20K)
    assert "no pixel of any annotation has a class" in text


def test_what_is_wrong_with_ade20k_is_found(tmp_path):
    fine = np.ones((4, 6), np.uint8)
    ade20k(tmp_path, [fine] * 6)
    at = tmp_path / "annotations" / "validation"
    (at / "0.png").unlink()
    Image.fromarray(np.ones((6, 4), np.uint8)).save(at / "1.png")
    Image.fromarray(np.full((4, 6), 151, np.uint8)).save(at / "2.png")
    Image.fromarray(np.ones((4, 6, 3), np.uint8)).save(at / "3.png")
    (at / "4.png").write_bytes(b"")
    text = problems("ade20k", tmp_path, ADE20K)
    assert "5 problems" in text
    assert "0.png is missing" in text
    assert "1.jpg is 4x6, its annotation says 6x4" in text
    assert "2.png has class 151, the model knows 1..150" in text
    assert "3.png is a PNG of mode RGB" in text
    assert "4.png is empty (0 bytes)" in text
    names = class_names(Task.SEGMENTATION)
    text = problems("ade20k", tmp_path, model("segmentation", names[1:] + names[:1]))
    assert "class 0 is 'building', published is 'wall'" in text
    assert "annotations is not a folder" in problems(
        "ade20k", image(tmp_path / "x" / "images" / "a.png").parent.parent, ADE20K
    )


def as_png(values, bits=8, colour_type=0):
    """A PNG file of rows of packed values, written chunk by chunk."""
    rows = [bytes(row) for row in values]
    width = len(rows[0]) * 8 // bits
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    return png_file((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows))))


def png_file(*chunks):
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (*chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


HEADER = struct.pack(">IIBBBBB", 6, 4, 8, 0, 0, 0, 0)
BOMB = struct.pack(">IIBBBBB", 8000, 7000, 8, 0, 0, 0, 0)
HUGE = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
ANNOTATIONS = {
    "empty": (b"", "0.png is empty (0 bytes)"),
    "a text": (b"<html>not found</html>", "0.png cannot be read as PNG"),
    "a JPEG": (encoded(photograph(6, 4), "JPEG"), "0.png cannot be read as PNG"),
    "the signature alone": (png_file()[:8], "0.png cannot be read as PNG"),
    "no image data": (png_file((b"IHDR", HEADER)), "0.png cannot be read as PNG"),
    "a short header": (png_file((b"IHDR", HEADER[:5])), "0.png cannot be read as PNG"),
    "damaged data": (png_file((b"IHDR", HEADER), (b"IDAT", b"x" * 30)), "0.png cannot be read"),
    "cut data": (as_png(np.ones((4, 6), np.uint8))[:-25], "0.png cannot be read as PNG"),
    "a wrong checksum": (
        as_png(np.ones((4, 6), np.uint8)).replace(HEADER, HEADER[:3] + b"\7" + HEADER[4:]),
        "0.png cannot be read as PNG",
    ),
    "two bits": (as_png(np.full((4, 2), 0x55, np.uint8), 2), "0.png has 2 bits a pixel"),
    "four bits": (as_png(np.full((4, 3), 0x11, np.uint8), 4), "0.png has 4 bits a pixel"),
    "one bit": (as_png(np.full((4, 1), 0xFF, np.uint8), 1), "0.png is a PNG of mode 1"),
    "grey and alpha": (as_png(np.ones((4, 12), np.uint8), 8, 4), "0.png is a PNG of mode"),
    "many pixels": (png_file((b"IHDR", BOMB)), "0.png has 56,000,000 pixels, the limit is"),
    "very many pixels": (png_file((b"IHDR", HUGE)), "0.png cannot be read as PNG: Image size"),
    "a text chunk of a gigabyte": (
        png_file((b"IHDR", HEADER), (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24)))),
        "0.png cannot be read as PNG",
    ),
}


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_a_damaged_annotation_is_named(tmp_path, case):
    data, message = ANNOTATIONS[case]
    ade20k(tmp_path, [np.ones((4, 6), np.uint8)])
    (tmp_path / "annotations" / "validation" / "0.png").write_bytes(data)
    assert message in problems("ade20k", tmp_path, ADE20K)


def test_class_numbers_may_be_indices_of_a_palette(tmp_path):
    annotation = Image.fromarray(np.array([[1, 2, 0], [3, 255, 1]], np.uint8)).convert("P")
    annotation.putpalette(bytes(range(256)) * 3)
    ade20k(tmp_path, [np.ones((2, 3), np.uint8)])
    annotation.save(tmp_path / "annotations" / "validation" / "0.png", bits=8)
    (sample,) = open_dataset("ade20k", tmp_path, ADE20K).samples
    assert read_class_map(sample.truth).tolist() == [[0, 1, -1], [2, -1, 0]]


# Any


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path):
    image(tmp_path / os.fsdecode(b"caf\xe9.png"))
    text = problems("images", tmp_path, COCO)
    assert "caf\\udce9.png' is not UTF-8; rename the file" in text


def test_a_pipe_is_no_dataset(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for kind, manifest in (("images", COCO), ("imagenet", ANIMALS), ("coco", COCO)):
        text = problems(kind, tmp_path / "pipe", manifest)
        assert "is neither a folder nor a regular file" in text
    assert "File name too long" in problems("images", tmp_path / ("x" * 300), COCO)


def test_any_folder_of_images_has_no_truth(tmp_path):
    for name in ("b.png", "a/c.jpg", ".cache/d.png"):
        image(tmp_path / name, format_="JPEG" if name.endswith("jpg") else "PNG")
    dataset = open_dataset("images", tmp_path, COCO)
    assert [(s.id, s.truth) for s in dataset.samples] == [("a/c.jpg", None), ("b.png", None)]
    (tmp_path / "e.webp").touch()
    assert "e.webp is empty" in problems("images", tmp_path, COCO)
    assert "no folder with images" in problems("images", tmp_path / "b.png", COCO)


def test_a_dataset_must_suit_the_model(tmp_path):
    assert "coco is for detection, m is a classification model; use imagenet" in problems(
        "coco", tmp_path, ANIMALS
    )
    assert "does not exist" in problems("images", tmp_path / "none", ANIMALS)
