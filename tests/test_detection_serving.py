"""Detection on a real Triton server."""

import json
import subprocess
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO

from dfvt_deploy.batches.exports import _image_ids, write_coco
from dfvt_deploy.compare.detection import match_detections
from dfvt_deploy.data import published_classes
from dfvt_deploy.errors import BadInput
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving.client import draw_prediction, predict
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve
from dfvt_deploy.tasks import detection, rle
from dfvt_deploy.tasks.images import decode_image
from dfvt_deploy.types import Task

from .fixtures import encoded, json_document, photograph

NAME = "dfvt_t_detection"

#: Thin, so that they stay small where the resize enlarges to 1333 on the long side.
SIZES = [(200, 12), (15, 160), (400, 30), (1, 8000)]


@pytest.fixture(scope="module")
def server(detection_artifact_t, tmp_path_factory):
    repository = tmp_path_factory.mktemp("detection") / "model_repository"
    populate(detection_artifact_t.directory, repository=repository)
    with serve(repository) as running:
        yield running


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [encoded(photograph(*size, seed=i), "PNG") for i, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def offline(detection_artifact_t, images) -> list[detection.DetectionResult]:
    """The same without a server."""
    results = []
    with OnnxRuntimeRunner(detection_artifact_t.onnx_path()) as runner:
        for data in images:
            pixels, size, original = detection.preprocess(decode_image(data))
            found = runner.infer({"images": pixels[None], "image_sizes": size[None]})
            rows = (found[name][0] for name in ("boxes", "scores", "labels", "masks"))
            results.append(detection.postprocess(*rows, size, original))
    return results


def request(*images: bytes) -> dict[str, np.ndarray]:
    return {"image": np.array(images, dtype=np.object_).reshape(-1, 1)}


def of_image(outputs, i):
    return {name: value[i] for name, value in outputs.items()}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_answers_equal_the_definition(server, images, offline, protocol):
    with TritonRunner(NAME, getattr(server, f"{protocol}_url"), protocol) as runner:
        for data, expected, (width, height) in zip(images, offline, SIZES, strict=True):
            outputs = runner.infer(request(data))
            assert {k: (v.dtype.char, v.shape) for k, v in outputs.items()} == {
                "boxes": ("f", (1, 100, 4)),
                "scores": ("f", (1, 100)),
                "class_ids": ("i", (1, 100)),
                "labels": ("O", (1, 100)),
                "masks": ("O", (1, 100)),
                "num_detections": ("i", (1, 1)),
            }
            found = detection.result_from_answers(of_image(outputs, 0))
            n = len(expected.scores)
            assert n > 0
            np.testing.assert_array_equal(found.boxes, expected.boxes)
            np.testing.assert_array_equal(found.scores, expected.scores)
            np.testing.assert_array_equal(found.labels, expected.labels)
            assert found.masks == expected.masks
            assert (found.boxes <= np.tile([width, height], 2) * (1 + 1e-6)).all()
            assert rle.decode(found.masks[0]).shape == (height, width)
            assert (outputs["class_ids"][0, n:] == -1).all()
            assert set(outputs["labels"][0, n:]) | set(outputs["masks"][0, n:]) <= {b""}


def test_equal_canvases_may_share_a_request(server, images, offline):
    with TritonRunner(NAME, server.grpc_url) as runner:
        outputs = runner.infer(request(images[0], images[0]))
        for i in range(2):
            found = detection.result_from_answers(of_image(outputs, i))
            result = match_detections(offline[0], found, min_iou=0.98)
            assert (result.score_gaps <= 1e-4).sum() >= 0.99 * len(offline[0].scores)
        with pytest.raises(BadInput, match=r"different canvases \(\d+x\d+, \d+x\d+\); send each"):
            runner.infer(request(images[0], images[1]))


def test_predict_shows_saves_and_gives_json(server, images, offline, tmp_path):
    (tmp_path / "a.png").write_bytes(images[2])
    (answer,) = predict([tmp_path / "a.png"], NAME, url=server.grpc_url)
    assert answer.task is Task.DETECTION
    assert detection.result_from_answers(answer.outputs).masks == offline[2].masks
    drawn = draw_prediction(answer)
    assert drawn.width == 1600, "four times as large"
    assert drawn.height > 120, "a line below the image"
    command = [sys.executable, "-m", "dfvt_deploy", "predict", "a.png", "--model", NAME]
    command += ["--url", server.grpc_url, "--save", "drawn", "--coco", "found.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(answer.outputs["labels"][0]) in done.stdout
    assert (tmp_path / "drawn" / "a.png").is_file()
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, check=True)
    (document,) = json_document("predict", done.stdout)
    assert document["outputs"]["num_detections"] == [len(offline[2].scores)]
    assert len(document["outputs"]["masks"]) == 100
    check_coco_results(tmp_path / "found.json", document)


def check_coco_results(path, document):
    """pycocotools loads what `predict --coco` wrote; the ids are those of COCO, or the model's."""
    found, outputs = json.loads(path.read_text()), document["outputs"]
    (n,) = outputs["num_detections"]
    assert len(found) == n > 0
    coco_ids = {row["name"]: int(row["coco_id"]) for row in published_classes(Task.DETECTION)}
    assert [one["category_id"] for one in found] == [coco_ids[x] for x in outputs["labels"][:n]]
    assert [one["score"] for one in found] == outputs["scores"][:n]

    truth = COCO()
    size = dict(zip(("height", "width"), json.loads(outputs["masks"][0])["size"], strict=True))
    truth.dataset = {
        "images": [{"id": 0, **size}],
        "categories": [{"id": i, "name": name} for name, i in coco_ids.items()],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(path))
    assert len(loaded.getAnnIds(imgIds=[0])) == n
    for i, (left, top, right, bottom) in enumerate(outputs["boxes"][:n], 1):
        assert loaded.anns[i]["bbox"] == pytest.approx([left, top, right - left, bottom - top])
        expected = rle.decode(json.loads(outputs["masks"][i - 1]))
        np.testing.assert_array_equal(loaded.annToMask(loaded.anns[i]), expected)

    labels = ["another", *outputs["labels"][1:]]
    own = {**document, "image": "d/000041.png", "outputs": {**outputs, "labels": labels}}
    images = [own["image"], "d/x.png", "d/y/7.png", "d/7.png", document["image"]]
    write_coco([own, document | {"image": "d/7.png"}], images, path)
    found = json.loads(path.read_text())
    assert [one["category_id"] for one in found[:n]] == outputs["class_ids"][:n]
    assert [one["image_id"] for one in found] == [41] * n + [42 + 3] * n


def test_image_ids_differ_and_do_not_depend_on_what_was_answered():
    assert _image_ids(["a/12.jpg", "x.png", "b/012.png", "7.jpg"]).tolist() == [8, 9, 10, 7]
    assert _image_ids(["http://h/3.jpg", "f.parquet#5", "9" * 20]).tolist() == [3, 5, 6]
    assert _image_ids(["b", "a"]).tolist() == [0, 1]
    assert _image_ids([]).tolist() == []
