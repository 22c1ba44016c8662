"""What `convert` and a rebuilt engine must not leave behind: other files than their names say, and
folders that nothing opens any more."""

import math
from dataclasses import replace

import pytest
from PIL import Image

from dfvt_deploy.artifact import open_artifact
from dfvt_deploy.conversion import convert as convert_module
from dfvt_deploy.conversion.convert import convert
from dfvt_deploy.conversion.search import SearchGoal
from dfvt_deploy.engines import build
from dfvt_deploy.engines.build import BuildOptions, build_trt
from dfvt_deploy.engines.record import engines_of
from dfvt_deploy.errors import ArtifactError, BadInput, StageFailed
from dfvt_deploy.types import Flavor, Precision

from .engine_files import add_file, copied

LAYERS = ("Conv", "Gemm", "MatMul")


@pytest.fixture
def model(artifact_t, tmp_path):
    return copied(artifact_t, tmp_path / "exports").directory


@pytest.fixture
def photo(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.linear_gradient("L").convert("RGB").save(folder / "a.jpg")
    return folder


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_float32_model_is_not_written_under_another_name(model, precision):
    with pytest.raises(StageFailed, match="float32 model under another name"):
        convert(model, precision, images=1, keep_fp32=LAYERS, method="minmax")
    assert not (model / f"model.{precision}.onnx").exists()


@pytest.mark.parametrize("largest", [0, math.nan])
def test_a_largest_value_that_is_none_is_refused(model, largest):
    with pytest.raises(BadInput, match="--largest"):
        convert(model, "fp16", largest=largest)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_damaged_image_is_bad_input_wherever_it_stands(model, photo, precision, monkeypatch):
    (photo / "b.jpg").write_bytes(b"no image")
    (photo / "folder.jpg").mkdir()  # is passed over
    first = lambda self: replace(self, views=self.views[:1])  # noqa: E731
    monkeypatch.setattr(convert_module.CalibrationImages, "compared", first)
    with pytest.raises(BadInput, match=r"b\.jpg"):
        convert(model, precision, calibration=photo, method="minmax")


def test_an_interrupted_search_goes_on_only_with_the_same_names(model, photo):
    """Operators to choose from are the same with one node more asked for, trials are not."""
    seen = []

    def interrupted(_runner):
        seen.append("trial")
        if len(seen) % 2 == 0:
            raise KeyboardInterrupt
        return 0.0

    goal = SearchGoal("test", 1.0, interrupted)

    def search(*asked):
        with pytest.raises(KeyboardInterrupt):
            convert(
                model, "int8", calibration=photo, method="minmax", search="operators", goal=goal,
                keep_fp32=asked,
            )  # fmt: skip
        return len(seen)

    assert search() == 2
    graph = convert_module.ToInt8(model / "model.onnx", "minmax", "cpu").graph
    assert search(next(node.name for node in graph.nodes if node.op_type == "MatMul")) == 4


def test_lost_files_stop_neither_their_remaking_nor_the_others(model):
    options = BuildOptions(flavor=Flavor.RTX)
    plan = build_trt(model, precision="fp32", options=options).path
    made = convert(model, "int8", images=1, method="minmax").file
    made.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"convert dfvt_t_classification --precision int8"):
        open_artifact(model)
    with pytest.raises(ArtifactError, match=r"model\.int8\.onnx was changed"):
        build_trt(model, precision="int8", options=options)
    plan.unlink()
    convert(model, "int8", images=1, method="minmax")
    with pytest.raises(ArtifactError, match=r"build-trt .* --precision fp32 --flavor rtx"):
        open_artifact(model)
    build_trt(model, precision="fp32", options=options)
    open_artifact(model)


def test_a_rebuild_that_fails_late_leaves_the_engine_and_the_folder(model, monkeypatch):
    options = BuildOptions(flavor=Flavor.RTX)
    build_trt(model, precision="fp32", options=options)
    plan = model / "model.fp32.rtx.plan"
    before = plan.read_bytes()
    builds = build.plan_from_onnx

    def changed_meanwhile(task, gpu):
        made = builds(task, gpu)
        add_file(
            open_artifact(model), Precision.FP32, (model / "model.onnx").read_bytes() + b"\x00"
        )
        return made

    monkeypatch.setattr(build, "plan_from_onnx", changed_meanwhile)
    with pytest.raises(StageFailed, match="changed while"):
        build_trt(model, precision="fp32", options=options)
    assert plan.read_bytes() == before
    artifact = open_artifact(model)  # is not refused for the plan
    with pytest.raises(ArtifactError, match="another model"):
        engines_of(artifact, Precision.FP32, Flavor.RTX)
