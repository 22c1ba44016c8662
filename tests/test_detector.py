"""A detector that has learnt: its way to a served answer, and faults planted on that way."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from dfvt_deploy.evaluate.validation import validate
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve
from examples.detection_data import CLASSES, COLD

from .fixtures import record_again

pytestmark = pytest.mark.heavy

NETWORK, POSTPROCESS = "detector_network/1/model.onnx", "detector_postprocess/1/model.py"


@pytest.fixture(scope="module")
def exported(detector_artifact, tmp_path_factory) -> Path:
    """The export in a folder that takes reports and verdicts."""
    directory = tmp_path_factory.mktemp("exports") / "detector"
    shutil.copytree(detector_artifact.directory, directory, copy_function=os.link)
    return directory


@pytest.fixture
def repository(exported, tmp_path) -> Path:
    """A repository to plant something in."""
    populate(exported, repository=tmp_path / "r")
    return tmp_path / "r"


@pytest.fixture
def labelled(detector) -> dict:
    return {
        "dataset": "coco",
        "data": detector.heldout,
        "limit": 3,
        "max_drop": 1,
        "threads": 1,
    }


def through(repository: Path, exported: Path, options: dict):
    """Validate what a server on the repository answers."""
    with serve(repository) as server:
        return validate(exported, against="onnx", url=server.grpc_url, **options)


def test_the_whole_way(exported, detector, repository, labelled):
    found = validate(
        exported, checkpoint=detector.checkpoint, serve=True, repository=repository, **labelled
    )
    assert (found.outcome, found.culprit) == ("passed", None), found.reason
    assert found.metric == "box_ap"
    assert found.stage("pytorch").scores["box_ap"] > 20
    assert found.stage("pytorch").scores["mask_ap"] > 20
    for stage in found.stages[1:]:
        assert stage.gate.upper_bound <= 1


def test_an_image_with_nothing_on_it(exported, repository, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (128, 96), COLD).save(folder / "ground.png")
    found = through(repository, exported, {"images": folder, "threads": 1})
    assert found.outcome == "inconclusive"
    assert "finds nothing" in found.reason
    for stage in found.stages[1:]:
        assert stage.basis == "nothing-found"


def plant_in_graph(change):
    def plant(repository: Path) -> None:
        model = onnx.load(repository / NETWORK)
        change(model.graph)
        onnx.save_model(model, repository / NETWORK)

    return plant


def nodes(graph: onnx.GraphProto, operator: str) -> list[onnx.NodeProto]:
    found = [node for node in graph.node if node.op_type == operator]
    assert found
    return found


def half_a_pixel_off(graph: onnx.GraphProto) -> None:
    graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    for node in nodes(graph, "RoiAlign"):
        place, boxes = list(graph.node).index(node), f"{node.name}_moved"
        graph.node.insert(place, helper.make_node("Add", [node.input[1], "half"], [boxes]))
        node.input[1] = boxes


def not_aligned(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "RoiAlign"):
        (mode,) = (a for a in node.attribute if a.name == "coordinate_transformation_mode")
        mode.s = b"output_half_pixel"


def deltas_of_the_next_class(graph: onnx.GraphProto) -> None:
    planted = 0
    for tensor in graph.initializer:
        if "fc_reg" in tensor.name:
            value = numpy_helper.to_array(tensor)
            axis = value.shape.index(4 * len(CLASSES))
            tensor.CopyFrom(numpy_helper.from_array(np.roll(value, 4, axis), tensor.name))
            planted += 1
    assert planted == 2


def score_threshold(graph: onnx.GraphProto) -> None:
    constants = [node.attribute[0].t for node in nodes(graph, "Constant")]
    (tensor,) = (
        t for t in constants if not t.dims and numpy_helper.to_array(t) == np.float32(0.05)
    )
    tensor.CopyFrom(numpy_helper.from_array(np.array(0.3, np.float32)))


def flipped_masks(repository: Path) -> None:
    step = repository / POSTPROCESS
    text = step.read_text()
    planted = text.replace(
        "            options = dict(self.options)",
        '            outputs["masks"] = outputs["masks"][..., ::-1]\n'
        "            options = dict(self.options)",
    )
    assert planted != text
    step.write_text(planted)


@pytest.mark.parametrize(
    ("plant", "culprit"),
    [
        (plant_in_graph(half_a_pixel_off), "triton network"),
        (plant_in_graph(not_aligned), "triton network"),
        (plant_in_graph(deltas_of_the_next_class), "triton network"),
        (plant_in_graph(score_threshold), "triton network"),
        (flipped_masks, "triton postprocess"),
    ],
)
def test_a_fault_in_what_is_served(plant, culprit, exported, repository, labelled):
    plant(repository)
    record_again(repository, "detector")
    found = through(repository, exported, labelled)
    assert (found.outcome, found.culprit) == ("failed", culprit), found.reason
    scores = [found.stage(name).scores for name in ("simplified", "triton ensemble")]
    assert any(scores[0][name] != scores[1][name] for name in ("box_ap", "mask_ap"))
