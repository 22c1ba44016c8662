"""Hostile and damaged COCO files are refused before scoring, with the annotation named."""

import copy
import faulthandler
import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from dfvt_deploy.data import class_names
from dfvt_deploy.errors import BadInput, StageFailed
from dfvt_deploy.evaluate.datasets import open_dataset
from dfvt_deploy.evaluate.datasets.coco_objects import rle_problem
from dfvt_deploy.evaluate.metrics import metric_of
from dfvt_deploy.tasks import rle
from dfvt_deploy.types import Task

from .fixtures import encoded, photograph

HEIGHT, WIDTH = 16, 24
LABELS = class_names(Task.DETECTION)
MODEL = SimpleNamespace(name="m", task=Task.DETECTION, labels=LABELS, num_classes=len(LABELS))
POLYGON = [2, 2, 10, 2, 10, 8]


@pytest.fixture(autouse=True)
def never_hangs():
    """pycocotools' C code cannot be interrupted, so a hang ends the process with a traceback."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def rectangle():
    """A compressed mask of the image's size, as pycocotools writes it."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[2:8, 2:10] = 1
    return {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(pixels)["counts"].decode()}


def content():
    """Two images, and an object in each of the three forms of a segmentation."""
    box = {"bbox": [2, 2, 8, 6], "area": 48}
    runs = {"size": [HEIGHT, WIDTH], "counts": [34, 6, 10, 6, HEIGHT * WIDTH - 56]}
    document = {
        "images": [
            {"id": 3, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 7, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 3,
                "category_id": 1,
                **box,
                "iscrowd": 0,
                "segmentation": [list(POLYGON)],
            },
            {"id": 2, "image_id": 3, "category_id": 1, **box, "segmentation": runs, "iscrowd": 1},
            {
                "id": 5,
                "image_id": 7,
                "category_id": 18,
                **box,
                "iscrowd": 0,
                "segmentation": rectangle(),
            },
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    return copy.deepcopy(document)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    (folder / "val").mkdir()
    for name in ("a.png", "b.png"):
        (folder / "val" / name).write_bytes(encoded(photograph(WIDTH, HEIGHT), "PNG"))
    return folder


def opened(folder, text):
    path = folder / "instances_val.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return open_dataset("coco", path, MODEL)


def refusal(folder, text):
    with pytest.raises(BadInput) as refused:
        opened(folder, text)
    return str(refused.value)


def answers():
    """One detection, equal to the annotated rectangle."""
    mask = json.dumps(rectangle()).encode()
    return {
        "boxes": np.array([[[2, 2, 10, 8]]], np.float32),
        "scores": np.array([[0.9]], np.float32),
        "class_ids": np.array([[0]], np.int32),
        "labels": np.array([[b"person"]], np.object_),
        "masks": np.array([[mask]], np.object_),
        "num_detections": np.array([[1]], np.int32),
    }


def scored(dataset):
    metric = metric_of(Task.DETECTION)
    return metric.score([metric.image_result(answers(), sample) for sample in dataset.samples])


def test_every_form_of_a_segmentation_is_scored(folder):
    dataset = opened(folder, json.dumps(content()))
    assert [len(sample.truth.objects) for sample in dataset.samples] == [2, 1]
    assert scored(dataset)["box_ap"] > 0


def in_annotation(**fields):
    """A change of the first annotation, whose id is 1."""
    return lambda c: c["annotations"][0].update(fields)


def in_image(position=0, **fields):
    return lambda c: c["images"][position].update(fields)


def in_category(**fields):
    return lambda c: c["categories"][0].update(fields)


def polygon(*points):
    return in_annotation(segmentation=[list(points)])


def runs(counts, size=(HEIGHT, WIDTH)):
    return in_annotation(segmentation={"size": list(size), "counts": counts})


NUL, NAN, INF = "\0", float("nan"), float("inf")
ALL = HEIGHT * WIDTH
CHANGES = {
    "a string cut within a run": (runs(rectangle()["counts"] + "P"), "are cut off"),
    "a string of one unfinished run": (runs("`"), "annotation 1 has a segmentation that has the"),
    "a string of unfinished runs": (runs("P" * 1000), "cut off within a run"),
    "a string with a null": (runs("0" + NUL), "null character"),
    "a string with a low character": (runs("0!"), "not COCO's compressed run lengths"),
    "a string with a high character": (runs("0~"), "not COCO's compressed run lengths"),
    "a string of other letters": (runs("0ü"), "not COCO's compressed run lengths"),
    "an empty string": (runs(""), "not COCO's compressed run lengths"),
    "a run of very many characters": (runs("o" * 20 + "0"), "has a run of 21 characters"),
    "a string of negative runs": (runs("@"), "has a run of -16 pixels"),
    "a string of too few runs": (runs("1"), f"has runs of 1 pixels, the image has {ALL}"),
    "a string of a huge run": (runs("oooooo?"), "has runs of"),
    "a list of too few pixels": (runs([3, 4]), f"has runs of 7 pixels, the image has {ALL}"),
    "a list of too many pixels": (runs([ALL, 1]), f"has runs of {ALL + 1} pixels"),
    "a list of nothing": (runs([]), "has runs of 0 pixels"),
    "one negative run": (runs([-1, ALL, 1]), "has the run -1, not a whole number"),
    "runs beyond 32 bits": (runs([2**32 + ALL]), "has the run 4294967680, not"),
    "runs beyond 64 bits": (runs([2**64]), "not finite or needs more than 64 bits"),
    "fractional runs": (runs([0.5, ALL - 0.5]), "has the run 0.5, not a whole number"),
    "runs that are true": (runs([True, ALL - 1]), "has the run True, not a whole number"),
    "runs of text": (runs(["3", ALL - 3]), "has the run '3', not a whole number"),
    "runs of null": (runs([None, ALL]), "has the run None"),
    "runs of lists": (runs([[ALL]]), "has the run [384]"),
    "counts of null": (runs(None), "has the counts None, neither a list nor a string"),
    "counts that are a number": (runs(384), "has the counts 384"),
    "a mask of another size": (runs([9], (3, 3)), "has the size [3, 3], the image [16, 24]"),
    "a mask of turned size": (runs([ALL], (WIDTH, HEIGHT)), "has the size [24, 16]"),
    "a mask of huge size": (runs([10**12], (10**6, 10**6)), "has the size [1000000, 1000000]"),
    "a mask of negative size": (runs([ALL], (-HEIGHT, -WIDTH)), "has the size [-16, -24]"),
    "a mask without a size": (in_annotation(segmentation={"counts": [ALL]}), "has the size None"),
    "a mask without counts": (in_annotation(segmentation={"size": [16, 24]}), "the counts None"),
    "a polygon far away": (polygon(0, 0, 1e12, 0, 1e12, 1e12), "annotation 1 has a polygon with"),
    "a polygon of negative places": (polygon(-1e9, 0, 5, 0, 5, 5), "point (-1e+09, 0), which is"),
    "a polygon just too far": (polygon(0, 0, 2 * WIDTH + 1, 0, 5, 5), "point (49, 0)"),
    "a polygon of an infinite number": (polygon(0, 0, INF, 0, 5, 5), "is not finite"),
    "a polygon of no number": (polygon(0, 0, NAN, 0, 5, 5), "is not finite"),
    "a polygon of huge digits": (polygon(0, 0, 10**400, 0, 5, 5), "is not finite"),
    "a polygon of two points": (polygon(1, 2, 3, 4), "has the polygon [1, 2, 3, 4], not"),
    "a polygon of seven numbers": (polygon(1, 2, 3, 4, 5, 6, 7), "not a list of 6 numbers"),
    "a polygon of text": (polygon("1", 2, 3, 4, 5, 6), "has the polygon ['1', 2, 3, 4, 5, 6]"),
    "a polygon of null": (polygon(None, 2, 3, 4, 5, 6), "has the polygon [None, 2"),
    "a polygon of lists": (polygon([1], [2], [3], [4], [5], [6]), "has the polygon [[1]"),
    "a polygon without its list": (in_annotation(segmentation=POLYGON), "has the polygon 2, not"),
    "a polygon that crosses the image without end": (
        polygon(*([0, 0, WIDTH, HEIGHT] * 500)),
        "pixels of outline, the limit is 4,000",
    ),
    "a segmentation of text": (in_annotation(segmentation="x"), "has the segmentation 'x'"),
    "a segmentation of null": (in_annotation(segmentation=None), "has no segmentation"),
    "a bbox far away": (in_annotation(bbox=[0, 0, 1e300, 1e300]), "annotation 1 has a bbox with"),
    "a bbox of negative size": (in_annotation(bbox=[5, 5, -3, 2]), "a bbox of negative size"),
    "a bbox of five numbers": (in_annotation(bbox=[1, 2, 3, 4, 5]), "not 4 numbers"),
    "a bbox of lists": (in_annotation(bbox=[[1], [2], [3], [4]]), "not 4 numbers"),
    "a bbox of text": (in_annotation(bbox="1234"), "has the bbox '1234', not 4 numbers"),
    "a bbox of an object": (in_annotation(bbox={"x": 1}), "has the bbox {'x': 1}"),
    "a bbox of null": (in_annotation(bbox=None), "annotation 1 has no bbox"),
    "an area of null": (in_annotation(area=None), "annotation 1 has the area None"),
    "an area of text": (in_annotation(area="48"), "has the area '48', not a number"),
    "a negative area": (in_annotation(area=-1), "has the area -1"),
    "a huge area": (in_annotation(area=1e300), "has the area 1e+300"),
    "an area of a list": (in_annotation(area=[48]), "has the area [48]"),
    "iscrowd of null": (in_annotation(iscrowd=None), "annotation 1 has the iscrowd None"),
    "iscrowd of text": (in_annotation(iscrowd="0"), "has the iscrowd '0', neither 0 nor 1"),
    "iscrowd of 2": (in_annotation(iscrowd=2), "has the iscrowd 2"),
    "iscrowd of a list": (in_annotation(iscrowd=[]), "has the iscrowd []"),
    "an id twice": (in_annotation(id=2), "two annotations have the id 2"),
    "an id of a list": (in_annotation(id=[1]), "entry 0 of annotations has the id [1]"),
    "an id of null": (in_annotation(id=None), "entry 0 of annotations has the id None"),
    "a category id of text": (in_annotation(category_id="1"), "the category_id '1'; it"),
    "a category id of true": (in_annotation(category_id=True), "the category_id True; it"),
    "an image id of a list": (in_annotation(image_id=[3]), "has the image_id [3]; it must be"),
    "an image id of 3.0": (in_annotation(image_id=3.0), "has the image_id 3.0; it must be"),
    "an annotation of null": (lambda c: c["annotations"].append(None), "entry 3 of annotations is"),
    "annotations that are an object": (lambda c: c.update(annotations={"a": 1}), "no annotations"),
    "an image id twice": (in_image(position=1, id=3), "two images have the id 3"),
    "a file name twice": (in_image(position=1, file_name="a.png"), "the file_name 'a.png'"),
    "an image of huge size": (in_image(height=10**12), "image 3 is 10000000"),
    "an image of no size": (in_image(width=0), "image 3 is 16x0"),
    "an image of negative size": (in_image(height=-16), "image 3 is -16x24"),
    "an image height of text": (in_image(height="16"), "has the height '16'"),
    "an image without a name": (in_image(file_name=""), "is missing"),
    "an image name with a null": (in_image(file_name="a\0"), "null character"),
    "an image name of half a pair": (in_image(file_name="\ud800"), "surrogate"),
    "an image name of 9,000 letters": (in_image(file_name="a" * 9000), "long"),
    "an image that is a folder": (in_image(file_name="."), "is missing"),
    "a category name of null": (in_category(name=None), "the name None"),
    "a category name twice": (in_category(name="dog"), "the name 'dog'"),
    "a category id twice": (in_category(id=18), "have the id 18"),
    "no categories": (lambda c: c.update(categories=[]), "has no categories"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_wrong_entry_is_named(folder, case):
    change, message = CHANGES[case]
    changed = content()
    change(changed)
    assert message in refusal(folder, json.dumps(changed))


FILES = {
    "nothing": ("", "is not JSON"),
    "a cut file": (json.dumps(content())[:-40], "is not JSON"),
    "a list": ("[]", "holds a list, no COCO annotations"),
    "null": ("null", "no COCO annotations"),
    "nested lists": ("[" * 200_000 + "]" * 200_000, "nest deeper"),
    "nested objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "nest deeper"),
    "a key twice": ('{"images": [], "images": []}', "has the key 'images' twice"),
    "five thousand digits": ('{"images": [' + "9" * 5000 + "]}", "not finite"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_coco_file_is_refused(folder, case):
    text, message = FILES[case]
    assert message in refusal(folder, text)


def test_a_byte_order_mark_is_left_out(folder):
    assert len(opened(folder, "\ufeff" + json.dumps(content()))) == 2


HOSTILE = [
    None, True, 0, -1, 1, 2.5, 1e12, -1e12, 2**31, 2**32, 2**63 - 1, "", "0", "P", "1" * 50, "oooo",
    [], [0], [1, 2, 3, 4], [[0, 0, 9, 9, 0, 9]], [1e9] * 6, {}, {"size": [16, 24], "counts": "P"},
    {"size": [16, 24], "counts": [384]}, {"counts": [384]}, "dog", 18, 3,
]  # fmt: skip


def places(node):
    """Every place in a document, as its container and the key or position in it."""
    keys = list(node) if isinstance(node, dict) else range(len(node))
    for key in keys:
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])


def mutated(chance):
    """A document in which one or two values are replaced or missing."""
    document = content()
    for _ in range(chance.choice([1, 2])):
        node, key = chance.choice(list(places(document)))
        if chance.random() < 0.1:
            del node[key]
        else:
            node[key] = copy.deepcopy(chance.choice(HOSTILE))
    return document


def test_mutated_files_are_refused_or_scored(folder):
    outcomes = []
    for seed in range(300):
        try:
            scored(opened(folder, json.dumps(mutated(random.Random(seed)))))
            outcomes.append("scored")
        except BadInput:
            outcomes.append("refused")
    assert 5 < outcomes.count("scored") < 100


def test_masks_of_both_writers_are_accepted():
    rng = np.random.default_rng(5)
    for _ in range(50):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        pixels = rng.random((height, width)) < rng.random()
        ours = rle.encode(pixels, 0, 0, (height, width))
        theirs = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        theirs = {"size": theirs["size"], "counts": theirs["counts"].decode()}
        assert rle_problem(ours, (height, width)) is None
        assert rle_problem(theirs, (height, width)) is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("{", "is no run lengths"),
        ("[]", "is \\[\\], not run lengths"),
        ("[" * 100_000, "is no run lengths"),
        (json.dumps({"size": [HEIGHT, WIDTH], "counts": "P"}), "cut off within a run"),
        (json.dumps({"size": [HEIGHT, WIDTH], "counts": [5, -5, ALL]}), "the run -5, not"),
    ],
)
def test_a_wrong_mask_of_a_server_is_an_error(folder, mask, message):
    sample = opened(folder, json.dumps(content())).samples[0]
    wrong = answers() | {"masks": np.array([[mask.encode()]], np.object_)}
    with pytest.raises(StageFailed, match=f"a.png: the mask of detection 0 .*{message}"):
        metric_of(Task.DETECTION).image_result(wrong, sample)
