"""Metrics against pycocotools and against plain computations, on crafted cases."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dfvt_deploy.errors import StageFailed
from dfvt_deploy.evaluate.datasets.sample import (
    AnnotatedObject,
    ClassMapTruth,
    ClassTruth,
    DetectionTruth,
    Sample,
)
from dfvt_deploy.evaluate.metrics import metric_of
from dfvt_deploy.tasks import classification
from dfvt_deploy.tasks.segmentation import encode_class_map
from dfvt_deploy.types import Task

ACCURACY, AP, IOU = (metric_of(task) for task in Task)


def through_json(results):
    return json.loads(json.dumps(results))


def score_of(metric, results, images):
    """The figures of the images at these positions, which may be repeated."""
    return metric.counted(results, metric.names)(np.bincount(images, minlength=len(results)))


# Classification


def accuracy_results(logits, truths, labels, k=5):
    answers = classification.postprocess_batch({"logits": logits}, labels, k)
    return through_json(
        [
            ACCURACY.image_result(
                {name: value[i : i + 1] for name, value in answers.items()},
                Sample(str(i), None, ClassTruth(int(truth), labels[truth])),
            )
            for i, truth in enumerate(truths)
        ]
    )


def test_accuracy_counts_what_a_plain_ranking_counts():
    rng = np.random.default_rng(0)
    labels = [f"class {i}" for i in range(12)]
    logits = rng.normal(0, 1, (300, 12)).round(1).astype(np.float32)  # with ties
    truths = rng.integers(0, 12, 300)
    results = accuracy_results(logits, truths, labels)
    places = []
    for row, truth in zip(logits, truths, strict=True):
        better = sum(value > row[truth] for value in row)
        places.append(better + sum(row[i] == row[truth] for i in range(truth)))
    figures = ACCURACY.score(results)
    assert figures["top1"] == pytest.approx(100 * sum(p == 0 for p in places) / 300, abs=1e-12)
    assert figures["top5"] == pytest.approx(100 * sum(p < 5 for p in places) / 300, abs=1e-12)
    some = np.array([3, 3, 3, 7, 299])
    assert score_of(ACCURACY, results, some)["top5"] == 100 * sum(places[i] < 5 for i in some) / 5


def test_accuracy_of_tied_logits_takes_the_lower_class():
    labels = ["a", "b", "c"]
    logits = np.zeros((3, 3), np.float32)
    assert ACCURACY.score(accuracy_results(logits, [0, 1, 2], labels))["top1"] == pytest.approx(
        100 / 3
    )


def test_accuracy_with_fewer_answers_than_five():
    logits = np.array([[3, 2, 1, 0], [3, 2, 1, 0]], np.float32)
    results = accuracy_results(logits, [1, 3], list("abcd"), k=2)
    assert ACCURACY.score(results) == {"top1": 0, "top5": 50}


def test_accuracy_with_more_answers_than_five():
    logits = -np.arange(8, dtype=np.float32)[None].repeat(3, axis=0)
    results = accuracy_results(logits, [4, 5, 7], list("abcdefgh"), k=8)
    assert ACCURACY.score(results)["top5"] == pytest.approx(100 / 3)


def test_an_answer_with_the_label_of_another_class_is_wrong():
    labels = list("abcd")
    answers = classification.postprocess_batch({"logits": np.eye(4, dtype=np.float32)}, [*"bcda"])
    right = [
        ACCURACY.image_result(
            {name: value[i] for name, value in answers.items()},
            Sample(str(i), None, ClassTruth(i, labels[i])),
        )
        for i in range(4)
    ]
    assert ACCURACY.score(right) == {"top1": 0, "top5": 0}


# Segmentation


def segmentation_result(tmp_path, name, annotation, answer, num_classes=5):
    path = tmp_path / f"{name}.png"
    Image.fromarray(annotation).save(path)
    sample = Sample(name, None, ClassMapTruth(path, num_classes))
    answers = {"class_map": np.array([[encode_class_map(answer, num_classes)]], np.object_)}
    return IOU.image_result(answers, sample)


def plain_iou(pairs, num_classes, ignored):
    """Pixel by pixel: (annotation as in the file, answer) of all images together."""
    both, either, right, total = [0] * num_classes, [0] * num_classes, 0, 0
    annotated = [0] * num_classes
    for annotation, answer in pairs:
        for raw, found in zip(annotation.ravel().tolist(), answer.ravel().tolist(), strict=True):
            if raw in ignored:
                continue
            truth = raw - 1
            total += 1
            right += truth == found
            annotated[truth] += 1
            for class_id in {truth, found}:
                either[class_id] += 1
            if truth == found:
                both[truth] += 1
    present = [i for i in range(num_classes) if either[i]]
    labelled = [i for i in range(num_classes) if annotated[i]]
    return {
        "miou": 100 * sum(both[i] / either[i] for i in present) / len(present),
        "aacc": 100 * right / total,
        "macc": 100 * sum(both[i] / annotated[i] for i in labelled) / len(labelled),
    }


def test_iou_counts_what_a_plain_loop_over_pixels_counts(tmp_path):
    rng = np.random.default_rng(1)
    pairs = []
    for i in range(6):
        shape = (rng.integers(5, 20), rng.integers(5, 20))
        # Class 4 is never annotated (file value 5) but answered; class 3 is in neither.
        annotation = rng.choice([0, 1, 2, 3, 255], shape).astype(np.uint8)
        answer = rng.choice([0, 1, 2] if i else [0, 4], shape).astype(np.uint8)
        pairs.append((annotation, answer))
    pairs.append((np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)))  # nothing annotated
    results = through_json(
        [segmentation_result(tmp_path, str(i), *pair) for i, pair in enumerate(pairs)]
    )
    assert results[-1]["classes"] == []
    expected = plain_iou(pairs, 5, {0, 255})
    assert IOU.score(results) == pytest.approx(expected, abs=1e-9)
    chosen = np.array([1, 1, 4, 6, 2, 1])
    expected = plain_iou([pairs[i] for i in chosen], 5, {0, 255})
    assert score_of(IOU, results, chosen) == pytest.approx(expected, abs=1e-9)
    assert all(np.isnan(v) for v in IOU.score(results[-1:]).values())


def test_iou_of_many_classes_in_sixteen_bits(tmp_path):
    annotation = np.array([[0, 255, 256, 300, 65_535]], np.uint16)
    answer = np.array([[9, 254, 255, 298, 3]], np.int32)
    result = segmentation_result(tmp_path, "a", annotation, answer, num_classes=300)
    expected = plain_iou([(annotation, answer)], 300, {0, 65_535})
    assert IOU.score([result]) == pytest.approx(expected)
    assert expected["aacc"] == pytest.approx(200 / 3)


def test_a_class_map_of_another_size_is_an_error(tmp_path):
    with pytest.raises(StageFailed, match="the class map is 4x6, the annotation 6x4"):
        segmentation_result(tmp_path, "a", np.ones((6, 4), np.uint8), np.ones((4, 6), np.uint8))


# Detection

SIZE = 60, 80
LABELS = ("cat", "dog", "cup", "hat")


def rectangle(left, top, right, bottom):
    """A COCO RLE of a filled rectangle, made by pycocotools."""
    pixels = np.zeros(SIZE, np.uint8, order="F")
    pixels[round(top) : round(bottom), round(left) : round(right)] = 1
    encoded = coco_mask.encode(pixels)
    return {"size": list(SIZE), "counts": encoded["counts"].decode()}


def thing(class_id, left, top, right, bottom, crowd=0, polygon=False):
    width, height = right - left, bottom - top
    outline = [[left, top, right, top, right, bottom, left, bottom]]
    segmentation = outline if polygon else rectangle(left, top, right, bottom)
    box = (left, top, width, height)
    return AnnotatedObject(class_id, box, width * height, bool(crowd), segmentation)


def found(class_id, score, left, top, right, bottom):
    return class_id, score, (left, top, right, bottom)


def detection_answers(detections, rows=100):
    n = len(detections)
    answers = {
        "boxes": np.zeros((1, rows, 4), np.float32),
        "scores": np.zeros((1, rows), np.float32),
        "class_ids": np.full((1, rows), -1, np.int32),
        "labels": np.full((1, rows), b"", np.object_),
        "masks": np.full((1, rows), b"", np.object_),
        "num_detections": np.array([[n]], np.int32),
    }
    for i, (class_id, score, box) in enumerate(detections):
        answers["boxes"][0, i] = box
        answers["scores"][0, i] = score
        answers["class_ids"][0, i] = class_id
        answers["labels"][0, i] = LABELS[class_id].encode()
        answers["masks"][0, i] = json.dumps(rectangle(*np.clip(box, 0, 80))).encode()
    return answers


def our_results(images):
    return through_json(
        [
            AP.image_result(
                detection_answers(detections),
                Sample(str(i), None, DetectionTruth(SIZE, tuple(things), LABELS)),
            )
            for i, (things, detections) in enumerate(images)
        ]
    )


def published_figures(images):
    """pycocotools' own figures, the way everyone calls it."""
    rows, annotations, detections = [], [], []
    for image_id, (things, answered) in enumerate(images, 1):
        rows.append({"id": image_id, "height": SIZE[0], "width": SIZE[1]})
        annotations += [
            {
                "id": len(annotations) + i,
                "image_id": image_id,
                "category_id": entry.class_id,
                "bbox": list(entry.box),
                "area": entry.area,
                "iscrowd": int(entry.crowd),
                "segmentation": copy.deepcopy(entry.segmentation),
            }
            for i, entry in enumerate(things, 1)
        ]
        for class_id, score, box in answered:
            left, top, right, bottom = (float(side) for side in np.float32(box))
            detections.append(
                {
                    "image_id": image_id,
                    "category_id": class_id,
                    "score": float(np.float32(score)),
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": rectangle(*np.clip(box, 0, 80)),
                }
            )
    figures = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": rows,
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in enumerate(LABELS)],
        }
        truth.createIndex()
        answers = truth.loadRes(detections)
        for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
            evaluation = COCOeval(truth, answers, iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for name, value in zip(("ap", "ap50", "ap75"), evaluation.stats, strict=False):
                figures[f"{kind}_{name}"] = 100 * value
    return figures


CAT = thing(0, 5, 5, 35, 35)
CASES = {
    "all found": [([CAT, thing(1, 40, 20, 70, 50)], [found(0, 0.9, 5, 5, 35, 35)])],
    "found twice": [([CAT], [found(0, 0.9, 5, 5, 35, 35), found(0, 0.8, 6, 5, 36, 35)])],
    "tied scores in one image": [
        ([CAT], [found(0, 0.5, 40, 0, 60, 20), found(0, 0.5, 5, 5, 35, 35)]),
    ],
    "tied scores over images": [
        ([CAT], [found(0, 0.5, 5, 5, 35, 35)]),
        ([CAT], [found(0, 0.5, 40, 5, 70, 35)]),
        ([CAT], [found(0, 0.5, 5, 5, 35, 35), found(0, 0.5, 0, 0, 9, 9)]),
    ],
    "a crowd takes any number": [
        (
            [CAT, thing(0, 40, 0, 80, 60, crowd=1)],
            [found(0, 0.9 - 0.1 * i, 42, 6 * i, 62, 6 * i + 20) for i in range(6)]
            + [found(0, 0.2, 5, 5, 35, 35)],
        ),
    ],
    "nothing but a crowd": [
        ([thing(2, 0, 0, 80, 60, crowd=1)], [found(2, 0.9, 0, 0, 80, 60)]),
        ([CAT], [found(0, 0.4, 6, 6, 35, 35)]),
    ],
    "an image without objects": [
        ([], [found(0, 0.99, 5, 5, 35, 35)]),
        ([CAT], [found(0, 0.5, 5, 5, 35, 35)]),
    ],
    "an image without detections": [([CAT], []), ([CAT], [found(0, 0.5, 5, 5, 30, 35)])],
    "an image without either": [([], []), ([CAT], [found(0, 0.5, 5, 5, 35, 35)])],
    "a class that is nowhere to be found": [
        ([CAT], [found(0, 0.5, 5, 5, 35, 35), found(3, 0.9, 0, 0, 9, 9)]),
    ],
    "a polygon": [([thing(1, 10, 10, 40.5, 30.25, polygon=True)], [found(1, 0.5, 10, 11, 40, 30)])],
    "a box without area": [([CAT], [found(0, 0.5, 5, 5, 5, 35), found(0, 0.4, 5, 5, 35, 33)])],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_ap_equals_pycocotools(case):
    assert AP.score(our_results(CASES[case])) == pytest.approx(
        published_figures(CASES[case]), abs=1e-9
    )


@pytest.fixture(scope="module")
def crowded():
    """Images with objects, crowds and detections near, beside and twice on them; tied scores."""
    rng = np.random.default_rng(3)
    images = []
    for _ in range(30):
        things = []
        for _ in range(rng.integers(0, 5)):
            left, top = rng.integers(0, 50), rng.integers(0, 35)
            width, height = rng.integers(6, 30), rng.integers(6, 25)
            corner = int(left + width), int(top + height)
            crowd = int(rng.random() < 0.15)
            things.append(thing(int(rng.integers(3)), int(left), int(top), *corner, crowd))
        detections = []
        for _ in range(rng.integers(0, 12)):
            if things and rng.random() < 0.8:
                target = things[rng.integers(len(things))]
                left, top, width, height = target.box
                box = np.array([left, top, left + width, top + height]) + rng.normal(0, 1.2, 4)
                class_id = target.class_id if rng.random() < 0.9 else 3
            else:
                left, top = rng.uniform(0, 40, 2)
                box, class_id = np.array([left, top, left + 20, top + 15]), int(rng.integers(4))
            box[2:] = np.maximum(box[2:], box[:2] + 1)
            detections.append(found(class_id, rng.random().__round__(1), *box))
        images.append((things, sorted(detections, key=lambda d: -d[1])))
    return images


def test_ap_equals_pycocotools_on_a_mixed_set(crowded):
    expected = published_figures(crowded)
    assert 5 < expected["mask_ap"] < 95
    assert AP.score(our_results(crowded)) == pytest.approx(expected, abs=1e-9)


def test_ap_of_resampled_images_is_that_of_really_repeated_images(crowded):
    results = our_results(crowded)
    rng = np.random.default_rng(4)
    for _ in range(5):
        indices = rng.integers(0, len(crowded), len(crowded))
        repeated = [crowded[i] for i in np.sort(indices)]
        expected = published_figures(repeated)
        assert score_of(AP, results, indices) == pytest.approx(expected, abs=1e-9)


def test_the_figures_asked_for_alone_are_those_of_all(crowded):
    results = our_results(crowded)
    of_boxes = AP.counted(results, ("box_ap",))(np.ones(len(results), np.int64))
    assert "mask_ap" not in of_boxes
    assert of_boxes.items() <= AP.score(results).items()


def test_no_object_at_all_is_no_figure():
    results = our_results([([], [found(0, 0.9, 0, 0, 9, 9)])])
    assert all(np.isnan(value) for value in AP.score(results).values())


def test_a_detection_counts_for_the_class_of_its_label():
    answers = detection_answers([found(0, 0.9, 5, 5, 35, 35)])
    sample = Sample("a", None, DetectionTruth(SIZE, (CAT,), LABELS))
    assert AP.score([AP.image_result(answers, sample)])["box_ap"] == pytest.approx(100)
    answers["labels"][0, 0] = b"dog"
    assert AP.score([AP.image_result(answers, sample)])["box_ap"] == 0
    answers["labels"][0, 0] = b"nobody"
    assert AP.image_result(answers, sample)["classes"][0]["scores"] == []


def test_masks_of_another_size_are_an_error():
    answers = detection_answers([found(0, 0.9, 5, 5, 35, 35)])
    sample = Sample("a.jpg", None, DetectionTruth((60, 81), (), LABELS))
    message = r"a\.jpg: the mask of detection 0 has the size \[60, 80\], the image \[60, 81\]"
    with pytest.raises(StageFailed, match=message):
        AP.image_result(answers, sample)
