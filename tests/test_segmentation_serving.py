"""Segmentation on a real Triton server."""

import subprocess
import sys

import numpy as np
import pytest

from dfvt_deploy.data import class_names
from dfvt_deploy.errors import BadInput
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving.client import draw_prediction, predict
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve
from dfvt_deploy.tasks import segmentation
from dfvt_deploy.tasks.images import decode_image
from dfvt_deploy.types import Task

from .fixtures import encoded, json_document, photograph

NAME = "dfvt_t_segmentation"

#: Small after the resize, which enlarges to 512 on the short side only where 2048 admits it.
SIZES = [(1, 1), (200, 12), (15, 160), (400, 30), (1, 8000)]


@pytest.fixture(scope="module")
def server(segmentation_artifact_t, tmp_path_factory):
    repository = tmp_path_factory.mktemp("segmentation") / "model_repository"
    populate(segmentation_artifact_t.directory, repository=repository)
    with serve(repository) as running:
        yield running


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return [encoded(photograph(*size, seed=i), "PNG") for i, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def offline(segmentation_artifact_t, images) -> list[np.ndarray]:
    """The definition, without a server: argmax on the canvas, cropped, resized."""
    maps = []
    with OnnxRuntimeRunner(segmentation_artifact_t.onnx_path()) as runner:
        for data in images:
            pixels, size, original = segmentation.preprocess(decode_image(data))
            found = runner.infer({"images": pixels[None], "image_sizes": size[None]})["class_map"]
            maps.append(segmentation.postprocess(found[0], size, original))
    return maps


def _request(*images: bytes) -> dict:
    return {"image": np.array(images, dtype=np.object_).reshape(-1, 1)}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tensors_that_the_network_cannot_take_are_the_callers(server, protocol):
    feed = {"images": np.zeros((1, 33, 32, 3), np.uint8), "image_sizes": np.array([[32, 32]])}
    with (
        TritonRunner(f"{NAME}_network", getattr(server, f"{protocol}_url"), protocol) as runner,
        pytest.raises(BadInput, match=r"onnxruntime: .*multiple of block_size"),
    ):
        runner.infer(feed)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_class_maps_equal_the_definition(server, images, offline, protocol):
    with TritonRunner(NAME, getattr(server, f"{protocol}_url"), protocol) as runner:
        for data, expected, (width, height) in zip(images, offline, SIZES, strict=True):
            found = runner.infer(_request(data))["class_map"]
            assert found.shape == (1, 1)
            decoded = segmentation.decode_class_map(found.item())
            assert decoded.shape == (height, width)
            assert decoded.dtype == np.uint8
            assert np.array_equal(decoded, expected)


def test_equal_canvases_may_share_a_request(server, images, offline):
    with TritonRunner(NAME, server.grpc_url) as runner:
        found = runner.infer(_request(images[1], images[1]))["class_map"]
        for data in found[:, 0]:
            assert np.mean(segmentation.decode_class_map(data) == offline[1]) > 0.999
        with pytest.raises(BadInput, match=r"different canvases \(\d+x\d+, \d+x\d+\); send each"):
            runner.infer(_request(images[1], images[2]))


def test_predict_shows_saves_and_gives_json(server, images, offline, tmp_path):
    (tmp_path / "a.png").write_bytes(images[3])
    (answer,) = predict([tmp_path / "a.png"], NAME, url=server.grpc_url)
    assert answer.task is Task.SEGMENTATION
    assert np.array_equal(
        segmentation.decode_class_map(answer.outputs["class_map"].item()), offline[3]
    )
    drawn = draw_prediction(answer)
    assert drawn.width == 1600, "four times as large"
    assert drawn.height > 120, "a legend below the image"
    command = [sys.executable, "-m", "dfvt_deploy", "predict", "a.png", "--model", NAME]
    command += ["--url", server.grpc_url, "--save", "drawn"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "%" in done.stdout
    assert (tmp_path / "drawn" / "a.png").is_file()
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, check=True)
    (document,) = json_document("predict", done.stdout)
    assert document["outputs"]["labels"] == list(class_names(Task.SEGMENTATION))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_class_names_are_served_to_those_who_ask(server, images, protocol):
    names = [name.encode() for name in class_names(Task.SEGMENTATION)]
    with TritonRunner(NAME, getattr(server, f"{protocol}_url"), protocol) as runner:
        found = runner.infer(_request(images[1], images[1]), outputs=["labels"])
        assert found["labels"].tolist() == [names, names]
        assert runner.infer(_request(images[1]), outputs=["class_map"]).keys() == {"class_map"}
        assert runner.infer(_request(images[1])).keys() == {"class_map", "labels"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"original_sizes": [[20_000, 20_000]]}, "400,000,000 pixels, the limit is 50,000,000"),
        ({"original_sizes": [[-1, 5]]}, "original_sizes .* is not all within"),
        ({"image_sizes": [[64, 32]]}, "exceed"),
        ({"class_map": np.full((1, 32, 32), 200, np.uint8)}, "class id 200 is not below 150"),
    ],
)
def test_the_last_step_refuses_what_no_network_gives(server, change, reason):
    feed = {
        "class_map": np.zeros((1, 32, 32), np.uint8),
        "image_sizes": np.array([[32, 32]]),
        "original_sizes": np.array([[10, 10]]),
    }
    feed |= {name: np.asarray(value) for name, value in change.items()}
    with (
        TritonRunner(f"{NAME}_postprocess", server.grpc_url) as runner,
        pytest.raises(BadInput, match=reason),
    ):
        runner.infer(feed)


def test_static_repository_uses_its_canvas(segmentation_checkpoint_t, tmp_path):
    from dfvt_deploy.exporters.export import export

    artifact = export(
        "t",
        "segmentation",
        checkpoint=segmentation_checkpoint_t,
        output=tmp_path,
        static=(64, 96),
    )
    populate(artifact.directory, repository=tmp_path / "r")
    data = encoded(photograph(300, 100), "PNG")
    pixels, size, original = segmentation.preprocess(decode_image(data), (64, 96))
    assert pixels.shape == (64, 96, 3)
    with OnnxRuntimeRunner(artifact.onnx_path()) as runner:
        found = runner.infer({"images": pixels[None], "image_sizes": size[None]})["class_map"]
    expected = segmentation.postprocess(found[0], size, original)
    with serve(tmp_path / "r") as server, TritonRunner(NAME, server.grpc_url) as runner:
        answer = runner.infer(_request(data))["class_map"].item()
    assert np.array_equal(segmentation.decode_class_map(answer), expected)
