"""What `convert` and a rebuilt engine must not leave behind: other files than their names say, and
folders that nothing opens any more."""

import math
import shlex
import subprocess
import sys
from dataclasses import replace
from subprocess import PIPE

import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from dfvt_deploy.artifact import open_artifact
from dfvt_deploy.cli import app
from dfvt_deploy.engines import build
from dfvt_deploy.engines.engine import engines_of
from dfvt_deploy.errors import ArtifactError, BadInput, StageFailed
from dfvt_deploy.precision.build_engines import build_trt
from dfvt_deploy.precision.calibration import CalibrationImages
from dfvt_deploy.precision.convert import convert
from dfvt_deploy.precision.graph_tensors import graph_tensors
from dfvt_deploy.precision.options import ConvertOptions
from dfvt_deploy.precision.search import SearchGoal
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
        convert(model, precision, images=1, keep_fp32=LAYERS)
    assert not (model / f"model.{precision}.onnx").exists()


@pytest.mark.parametrize("data_max", [0, math.nan])
def test_a_largest_value_that_is_none_is_refused(model, data_max):
    with pytest.raises(BadInput, match="--data-max"):
        convert(model, "fp16", data_max=data_max)


@pytest.mark.parametrize(
    ("precision", "fields", "message"),
    [
        ("fp16", {"target": "tensorrt"}, "--target tensorrt is for --precision int8"),
        ("fp16", {"method": "minmax"}, "--method minmax is for --precision int8"),
        ("int8", {"data_max": 100}, "--data-max 100 is for --precision fp16"),
        ("fp16", {"max_side": 64}, "--max-side 64 is for models of any size"),
    ],
)
def test_options_that_would_do_nothing_are_refused(model, precision, fields, message):
    with pytest.raises(BadInput, match=message):
        convert(model, precision, **fields)


def _cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _other_input(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    for node in model.graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    model.graph.input[0].name = "pixels"
    return model.SerializeToString()


def _unknown_operator(content: bytes) -> bytes:
    model = onnx.load_from_string(content)
    model.graph.node[-1].op_type = "Frobnicate"
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_off, "cannot be read as ONNX"),
        (lambda _: b"not ONNX", "cannot be read as ONNX"),
        (lambda _: b"", "is no ONNX model"),
        (_unknown_operator, "is no valid ONNX model: .*Frobnicate.*; export the model again: dfvt"),
        (_other_input, "has the inputs pixels, its manifest says images; export the model again"),
    ],
)
def test_a_damaged_onnx_file_is_bad_input(model, damage, message):
    """Even where the manifest has the hash of the damaged file."""
    add_file(open_artifact(model), Precision.FP32, damage((model / "model.onnx").read_bytes()))
    for precision in ("fp16", "int8"):
        with pytest.raises(ArtifactError, match=message):
            convert(model, precision, images=1)


def test_conversions_at_once_do_not_disturb_each_other(model):
    """Two processes convert the same model, to INT8 for two targets."""
    targets = ("cpu", "tensorrt")
    command = [sys.executable, "-m", "dfvt_deploy", "convert", model.name, "--precision", "int8"]
    command += ["--exports", str(model.parent), "--method", "minmax", "--images", "2", "--target"]
    running = [subprocess.Popen([*command, target], stdout=PIPE, stderr=PIPE) for target in targets]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
    manifest = open_artifact(model).manifest
    for file, target in (("model.int8.onnx", "cpu"), ("model.int8.tensorrt.onnx", "tensorrt")):
        assert manifest.conversions[file].target == target
    assert sorted(path.name for path in model.iterdir()) == [
        "manifest.json",
        "model.int8.onnx",
        "model.int8.tensorrt.onnx",
        "model.onnx",
    ]
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_too_few_calibration_images_are_said(model, photo, capsys):
    convert(model, "int8", calibration=photo, method="minmax")
    assert "INT8 is calibrated on 1 images, all that" in capsys.readouterr().err
    with pytest.raises(BadInput, match="photo is not a folder"):
        convert(model, "int8", calibration=photo.with_name("photo"))


def test_the_recorded_command_gives_the_options_again(model, photo, monkeypatch):
    """All options but a search, which takes long."""
    fields = {
        "target": "tensorrt",
        "calibration": photo,
        "images": 1,
        "keep_fp32": ("Conv", "/model/head/Gemm"),
        "method": "minmax",
        "min_agreement": 0.0,  # whatever this processor makes of the one image
    }
    record = convert(model, "int8", **fields).record
    seen = []

    def remember(_folder, options):
        seen.append(options)
        raise BadInput("seen")

    monkeypatch.setattr("dfvt_deploy.precision.convert.convert_with", remember)
    CliRunner().invoke(app, shlex.split(record.command)[1:])
    wanted = ConvertOptions(models=(model.name,), exports=model.parent, precision="int8", **fields)
    assert seen == [wanted]
    every = replace(wanted, search="nodes")
    CliRunner().invoke(app, shlex.split(every.command_line())[1:])
    assert seen[1] == every


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_damaged_image_is_bad_input_wherever_it_stands(model, photo, precision, monkeypatch):
    (photo / "b.jpg").write_bytes(b"no image")
    (photo / "folder.jpg").mkdir()  # is passed over
    first = lambda self: replace(self, views=self.views[:1])  # noqa: E731
    monkeypatch.setattr(CalibrationImages, "compared", first)
    with pytest.raises(BadInput, match=r"b\.jpg"):
        convert(model, precision, calibration=photo)


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
    graph = graph_tensors(onnx.load(model / "model.onnx"))
    assert search(next(node.name for node in graph.nodes if node.op_type == "MatMul")) == 4


def test_lost_files_stop_neither_their_remaking_nor_the_others(model):
    plan = build_trt(model, precision="fp32", flavor="rtx").path
    made = convert(model, "int8", target="tensorrt", images=1, method="minmax").file
    made.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"convert dfvt_t_classification --precision int8"):
        open_artifact(model)
    with pytest.raises(ArtifactError, match=r"model\.int8\.tensorrt\.onnx was changed"):
        build_trt(model, precision="int8", flavor="rtx")
    plan.unlink()
    convert(model, "int8", target="tensorrt", images=1, method="minmax")
    with pytest.raises(ArtifactError, match=r"build-trt .* --precision fp32 --flavor rtx"):
        open_artifact(model)
    build_trt(model, precision="fp32", flavor="rtx")
    open_artifact(model)


def test_a_rebuild_that_fails_late_leaves_the_engine_and_the_folder(model, monkeypatch):
    build_trt(model, precision="fp32", flavor="rtx")
    plan = model / "model.fp32.rtx.plan"
    before = plan.read_bytes()
    builds = build.plan_from_onnx

    def changed_meanwhile(*arguments):
        made = builds(*arguments)
        add_file(
            open_artifact(model), Precision.FP32, (model / "model.onnx").read_bytes() + b"\x00"
        )
        return made

    monkeypatch.setattr(build, "plan_from_onnx", changed_meanwhile)
    with pytest.raises(StageFailed, match="changed while"):
        build_trt(model, precision="fp32", flavor="rtx")
    assert plan.read_bytes() == before
    artifact = open_artifact(model)  # is not refused for the plan
    with pytest.raises(ArtifactError, match="another model"):
        engines_of(artifact, Precision.FP32, Flavor.RTX)
