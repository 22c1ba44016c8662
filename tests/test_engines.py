"""build-trt with the real builder of TensorRT-RTX, which needs no GPU, and with a stand-in for
TensorRT on a GPU: the same builder, whose plans say that they are TensorRT's."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import tensorrt_rtx_bindings
from rich.progress import Progress
from typer.testing import CliRunner

from dfvt_deploy.artifact import open_artifact
from dfvt_deploy.cli import app
from dfvt_deploy.engines import build, builder, machine
from dfvt_deploy.engines.build import default_sizes, profile_of
from dfvt_deploy.engines.engine import engines_of, open_engine
from dfvt_deploy.engines.layers import layers_of_report
from dfvt_deploy.engines.machine import DEFAULT_RELEASE, bindings, triton_releases
from dfvt_deploy.engines.options import BuildOptions
from dfvt_deploy.engines.record import record_path
from dfvt_deploy.errors import ArtifactError, BadInput, StageFailed
from dfvt_deploy.exporters.export import export
from dfvt_deploy.gpu.devices import Gpu, find_gpu
from dfvt_deploy.names import onnx_file
from dfvt_deploy.precision import build_engines as library
from dfvt_deploy.precision.build_engines import build_engines, build_trt
from dfvt_deploy.serving.tasks import served_task
from dfvt_deploy.types import Flavor, Int8Target, Precision, Task

from .engine_files import SIDE, add_file, add_fp16, add_quantised, copied
from .fixtures import json_document

#: Precisions that have a file to build from.
BUILT = (Precision.FP32, Precision.FP16, Precision.INT8)

RTX = BuildOptions(flavor="rtx")
CANVAS = (SIDE, SIDE)
SMALL = BuildOptions(flavor="rtx", max_batch=1, min_size=CANVAS, opt_size=CANVAS, max_size=CANVAS)


def untrained(variant, task, parent):
    return export(variant, task, output=parent)


@pytest.fixture(scope="module")
def built_t(artifact_t, tmp_path_factory):
    """DFvT-T in three precisions, with an engine each."""
    artifact = copied(artifact_t, tmp_path_factory.mktemp("engines"))
    artifact = add_quantised(add_fp16(artifact))
    for precision in BUILT:
        build_trt(artifact.directory, precision=precision, options=RTX)
    return open_artifact(artifact.directory)


def check_engines(artifact):
    """Every engine is what its record says, and fp16 and int8 are small."""
    engines = {p: engines_of(artifact, p, Flavor.RTX)[0] for p in BUILT}
    for precision, engine in engines.items():
        record = engine.record
        assert engine.path.name == f"model.{precision}.rtx.plan"
        assert record.version == tensorrt_rtx_bindings.__version__
        assert record.source == onnx_file(precision, Int8Target.TENSORRT)
        assert record.network_layers.total > 70
        assert record.network_layers.count(precision) >= 0.5 * record.network_layers.total
        assert record.inspected_layers is None or record.gpu is not None
        assert not record.flags.tf32
    sizes = {p: engine.record.size for p, engine in engines.items()}
    assert sizes[Precision.INT8] < sizes[Precision.FP32]
    return sizes[Precision.FP16] / sizes[Precision.FP32]


def test_classification_t_builds_in_three_precisions(built_t):
    # 10 MB of every TensorRT-RTX plan are kernel sources, which for T is much.
    assert check_engines(built_t) < 0.72


@pytest.mark.parametrize(
    ("variant", "task"),
    [("s", Task.CLASSIFICATION), ("t", Task.SEGMENTATION), ("s", Task.SEGMENTATION)],
)
def test_fp16_engines_are_at_most_65_percent(variant, task, tmp_path, request):
    if (variant, task) == ("t", Task.SEGMENTATION):
        artifact = copied(request.getfixturevalue("segmentation_artifact_t"), tmp_path)
    else:
        artifact = untrained(variant, task, tmp_path)
    artifact = add_quantised(add_fp16(artifact))
    options = SMALL if task is Task.SEGMENTATION else RTX
    for precision in BUILT:
        build_trt(artifact.directory, precision=precision, options=options)
    assert check_engines(open_artifact(artifact.directory)) <= 0.65


def test_detection_fails_at_the_operator_that_rtx_lacks(detection_artifact_t, tmp_path):
    artifact = copied(detection_artifact_t, tmp_path)
    with pytest.raises(StageFailed) as error:
        build_trt(artifact.directory, precision="fp32", options=RTX)
    assert "RoiAlign (node /roi_head/RoiAlign)" in str(error.value)
    assert "use --flavor tensorrt for detection" in str(error.value)
    assert not list(artifact.directory.glob("*.plan*"))


def test_detection_builds_but_for_roi_align(detection_artifact_t, tmp_path):
    """With means of the whole map in the place of each RoiAlign, both loops of NMS included."""
    artifact = copied(detection_artifact_t, tmp_path)
    model = onnx.load(artifact.onnx_path())
    graph = model.graph
    make = onnx.helper.make_node
    one, start = np.array([1], np.int64), np.array([0], np.int64)
    for name, array in (("one", one), ("start", start)):
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for index, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "RoiAlign":
            continue
        attributes = {a.name: a.i for a in node.attribute}
        out = node.output[0]
        size = np.array([256, attributes["output_height"], attributes["output_width"]], np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(size, f"{out}_size"))
        graph.node.remove(node)
        for stand_in in (
            make("Expand", [f"{out}_mean", f"{out}_shape"], [out]),
            make("GlobalAveragePool", [node.input[0]], [f"{out}_mean"]),
            make("Concat", [f"{out}_count", f"{out}_size"], [f"{out}_shape"], axis=0),
            make("Slice", [f"{out}_rois", "start", "one"], [f"{out}_count"]),
            make("Shape", [node.input[1]], [f"{out}_rois"]),
        ):
            graph.node.insert(index, stand_in)
    artifact = add_file(artifact, Precision.FP32, model.SerializeToString())
    record = build_trt(artifact.directory, precision="fp32", options=SMALL).record
    assert record.network_layers.total > 100


@pytest.mark.parametrize(
    ("passed_off", "asked"),
    [
        (Precision.FP32, Precision.FP16),
        (Precision.FP32, Precision.INT8),
        (Precision.FP16, Precision.FP32),
    ],
)
def test_a_model_passed_off_as_another_precision_is_refused(built_t, tmp_path, passed_off, asked):
    artifact = copied(built_t, tmp_path)
    plan = artifact.directory / f"model.{asked}.rtx.plan"
    before = plan.read_bytes()
    content = artifact.onnx_path(passed_off).read_bytes()
    artifact = add_file(artifact, asked, content)
    with pytest.raises(StageFailed) as error:
        build_trt(artifact.directory, precision=asked, options=RTX)
    assert f"was asked for in {asked}, but 0 of its 77 compute layers are" in str(error.value)
    assert f"77 {passed_off}, counted over the network" in str(error.value)
    assert plan.read_bytes() == before, "an engine that was there stays"


def test_an_onnx_file_changed_after_export_is_refused(built_t, tmp_path):
    artifact = copied(built_t, tmp_path)
    with artifact.onnx_path(Precision.FP16).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match=r"model\.fp16\.onnx was changed since"):
        build_trt(artifact.directory, options=RTX)


def test_an_onnx_file_or_engine_older_than_its_source_is_refused(built_t, tmp_path):
    artifact = copied(built_t, tmp_path)
    model = onnx.load(artifact.onnx_path())
    model.doc_string = "exported again"
    artifact = add_file(artifact, Precision.FP32, model.SerializeToString())
    with pytest.raises(ArtifactError, match="make it again with: dfvt-deploy convert"):
        build_trt(artifact.directory, options=RTX)
    with pytest.raises(ArtifactError, match="build it again with: dfvt-deploy build-trt"):
        engines_of(artifact, Precision.FP32, Flavor.RTX)


def test_real_plans_are_recognised_and_their_damage_too(built_t, tmp_path):
    engine = engines_of(built_t, Precision.FP16, Flavor.RTX)[0]
    content = engine.path.read_bytes()
    path = tmp_path / engine.path.name
    record_path(path).write_bytes(record_path(engine.path).read_bytes())
    for damaged, reason in (
        (b"12345" + content, "5 bytes stand in front of the plan"),
        (content[:-100], "is cut off"),
        (content[:24] + bytes((9, 9, 9, 9)) + content[28:], "SHA-256 differs"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=reason):
            open_engine(path)
    path.write_bytes(content)
    open_engine(path, source=built_t.onnx_path(Precision.FP16), compute_capability="8.9")
    with pytest.raises(ArtifactError, match=r"this one has 9\.0"):
        open_engine(path, compute_capability="9.0")
    with pytest.raises(ArtifactError, match=r"cannot be loaded by 1\.5\.0\.1"):
        open_engine(path, runtime_version="1.5.0.1")


def test_asymmetric_numbers_are_refused(artifact_t, tmp_path):
    artifact = add_quantised(copied(artifact_t, tmp_path), signed=False)
    with pytest.raises(ArtifactError, match=r"int.* numbers with .*make it again with: "):
        build_trt(artifact.directory, precision="int8", options=RTX)


def test_default_profiles_take_what_is_served_by_default(
    artifact_t, segmentation_artifact_t, detection_artifact_t
):
    for artifact in (artifact_t, segmentation_artifact_t, detection_artifact_t):
        task = artifact.manifest.task
        images = profile_of(artifact.manifest, BuildOptions())["images"]
        assert images.max[0] == served_task(task).max_batch_size
        if default_sizes(artifact.manifest) is not None:
            from dfvt_deploy.tasks import detection, segmentation

            preprocess = {Task.DETECTION: detection, Task.SEGMENTATION: segmentation}[task]
            for width, height in ((4000, 100), (100, 4000), (640, 480), (5, 5)):
                from .fixtures import photograph

                canvas = preprocess.preprocess(photograph(width, height))[0].shape[:2]
                assert all(
                    low <= side <= high
                    for low, side, high in zip(
                        images.min[1:3], canvas, images.max[1:3], strict=True
                    )
                ), (width, height, canvas)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (BuildOptions(min_batch=4, max_batch=2), "batches 4, 2, 2"),
        (BuildOptions(max_batch=5000), "within 1..4096"),
        (BuildOptions(max_size=(100, 64)), "100x64 is not of multiples of 32"),
        (BuildOptions(min_size=(640, 640), max_size=(64, 64)), "must not fall"),
    ],
)
def test_shapes_that_make_no_profile_are_refused(segmentation_artifact_t, shapes, reason):
    with pytest.raises(BadInput, match=reason):
        profile_of(segmentation_artifact_t.manifest, shapes)


def test_sizes_of_a_model_of_one_size_are_refused(artifact_t):
    with pytest.raises(BadInput, match="has a fixed size"):
        profile_of(artifact_t.manifest, BuildOptions(max_size=(256, 256)))


def test_one_number_moves_the_others(segmentation_artifact_t):
    images = profile_of(
        segmentation_artifact_t.manifest, BuildOptions(max_batch=2, max_size=(64, 96))
    )["images"]
    assert (images.min, images.opt, images.max) == ((1, 32, 32, 3), (1, 64, 96, 3), (2, 64, 96, 3))


def test_compute_capabilities_are_those_asked_for(built_t, tmp_path):
    artifact = copied(built_t, tmp_path)
    options = BuildOptions(flavor="rtx", compute_capability=("8.9", "12.0"))
    record = build_trt(artifact.directory, options=options).record
    assert record.target_compute_capabilities == ("8.9", "12.0")
    assert record.runs_on("8.9") and not record.runs_on("8.6")
    with pytest.raises(BadInput, match=r"does not build for compute capability 9\.0; it knows"):
        build_trt(
            artifact.directory,
            options=BuildOptions(flavor="rtx", compute_capability=("9.0",)),
        )


def test_what_the_builder_refuses_is_told(built_t, tmp_path):
    """Turing has no float32 matrix product in TensorRT-RTX."""
    artifact = copied(built_t, tmp_path)
    options = BuildOptions(flavor="rtx", compute_capability=("7.5",))
    with pytest.raises(StageFailed, match=r"could not build .*Turing"):
        build_trt(artifact.directory, precision="fp32", options=options)


def test_an_interrupt_ends_the_build_and_leaves_what_was_there(built_t, tmp_path, monkeypatch):
    artifact = copied(built_t, tmp_path)
    before = {path.name: path.read_bytes() for path in artifact.directory.iterdir()}
    steps = []

    class Interrupted(Progress):
        def update(self, task_id, **_fields):
            steps.append(task_id)
            raise KeyboardInterrupt

    monkeypatch.setattr(builder, "steps_bar", lambda: Interrupted(disable=True))
    with pytest.raises(KeyboardInterrupt):
        build_trt(artifact.directory, precision="fp32", options=RTX)
    assert len(steps) == 1, "the builder stops at the first step that says so"
    assert {path.name: path.read_bytes() for path in artifact.directory.iterdir()} == before


@pytest.fixture
def tensorrt_on_a_gpu(monkeypatch, tmp_path):
    """The builder of TensorRT-RTX under the name of TensorRT 10.16 on an H100."""

    class Builder:
        def __init__(self, log):
            self._builder = tensorrt_rtx_bindings.Builder(log)

        def __getattr__(self, name):
            return getattr(self._builder, name)

        def build_serialized_network(self, network, config):
            content = bytes(memoryview(self._builder.build_serialized_network(network, config)))
            return b"ftrt" + content[4:24] + bytes((10, 16, 1, 11)) + content[28:]

    module = ModuleType("tensorrt")
    vars(module).update(vars(tensorrt_rtx_bindings))
    module.Builder = Builder
    module.__version__ = "10.16.1.11"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(machine, "find_gpu", lambda: Gpu("NVIDIA H100 80GB HBM3", "9.0"))
    monkeypatch.setenv("DFVT_DEPLOY_CACHE", str(tmp_path / "cache"))
    return module


#: TensorRT-RTX takes a timing cache and says that it does nothing with it.
no_timing_cache = pytest.mark.filterwarnings("ignore:Use Deprecated:DeprecationWarning")


@no_timing_cache
def test_tensorrt_on_a_gpu(tensorrt_on_a_gpu, built_t, tmp_path):
    artifact = copied(built_t, tmp_path)
    options = BuildOptions(target="tritonserver:26.05")
    engine = build_trt(artifact.directory, options=options)
    assert engine.path.name == "model.fp16.sm90.plan"
    record = engine.record
    assert (record.gpu, record.compute_capability) == ("NVIDIA H100 80GB HBM3", "9.0")
    assert record.target == "tritonserver:26.05"
    open_engine(engine.path, runtime_version="10.16.1.11", compute_capability="9.0")
    assert engines_of(open_artifact(artifact.directory), Precision.FP16)[0].path == engine.path
    (cache,) = (tmp_path / "cache" / "timing").iterdir()
    assert cache.name == "NVIDIA-H100-80GB-HBM3.sm9.0.10.16.1.11"
    cache.write_bytes(b"damaged")
    build_trt(artifact.directory, options=options)
    assert cache.read_bytes() != b"damaged"


@no_timing_cache
def test_a_plan_of_another_builder_is_not_kept(tensorrt_on_a_gpu, built_t, tmp_path):
    artifact = copied(built_t, tmp_path)
    tensorrt_on_a_gpu.__version__ = "10.13.3.9"
    with pytest.raises(StageFailed, match=r"10\.13\.3\.9 built a plan that says"):
        build_trt(artifact.directory, options=BuildOptions())
    assert not list(artifact.directory.glob("*.sm90.*"))


def test_another_tensorrt_than_the_targets_is_refused_before_building(
    tensorrt_on_a_gpu, built_t, monkeypatch
):
    monkeypatch.setattr(build, "plan_from_onnx", lambda *_: pytest.fail("built"))
    with pytest.raises(StageFailed) as error:
        build_trt(built_t.directory, target="tritonserver:26.07")
    assert "TensorRT 10.16.1.11 is installed, tritonserver:26.07 holds 11.1.0.106" in str(
        error.value
    )
    assert "nvcr.io/nvidia/tensorrt:26.07-py3" in str(error.value)


def test_an_old_tensorrt_is_refused(tensorrt_on_a_gpu, built_t):
    tensorrt_on_a_gpu.__version__ = "10.9.0.34"
    with pytest.raises(StageFailed, match=r"TensorRT 10\.9\.0\.34 is too old, the least is 10\.12"):
        build_trt(built_t.directory, options=BuildOptions())


ALL_OPTIONS = BuildOptions(
    target=f"tritonserver:{DEFAULT_RELEASE}",
    min_batch=1,
    opt_batch=2,
    max_batch=3,
    min_size=(32, 64),
    opt_size=(64, 64),
    max_size=(96, 128),
    tf32=True,
    optimization_level=5,
    workspace=512,
    hardware_compatible=True,
    version_compatible=True,
    strip_weights=True,
)


def test_without_a_gpu_one_container_command_builds_all(built_t, monkeypatch):
    options = replace(ALL_OPTIONS, exports=built_t.directory.parent, precision="all")
    monkeypatch.setattr(machine, "find_gpu", lambda: None)
    with pytest.raises(StageFailed) as error:
        machine.machine_for(options)
    message = str(error.value)
    assert message.startswith("no NVIDIA GPU was found")
    (line,) = [line for line in message.splitlines() if "docker run" in line]
    words = shlex.split(line[line.index("docker run") :])
    assert words[:4] == ["docker", "run", "--rm", "--gpus=all"]
    assert f"--volume={options.exports}:/exports" in words
    assert triton_releases()[DEFAULT_RELEASE].builder_image in words
    inside = shlex.split(words[-1].split("exec dfvt-deploy ")[1])
    seen = []
    monkeypatch.setattr(library, "build_engines", lambda options: seen.append(options) or [])
    assert CliRunner().invoke(app, inside).exit_code == 0
    assert seen == [replace(options, exports=Path("/exports"))]


def test_without_a_gpu_the_command_prints_one_line_for_all_models(
    artifact_t, segmentation_artifact_t, tmp_path, monkeypatch
):
    for artifact in (artifact_t, segmentation_artifact_t):
        copied(artifact, tmp_path)
    monkeypatch.setattr(machine, "find_gpu", lambda: None)
    done = CliRunner().invoke(app, ["build-trt", "--precision=fp32", f"--exports={tmp_path}"])
    assert done.exit_code == 3
    assert done.stderr.count("docker run") == 1
    assert "exec dfvt-deploy build-trt --exports /exports --precision fp32" in done.stderr


def test_what_is_missing_is_converted_first_and_said(artifact_t, tmp_path, monkeypatch, capsys):
    artifact = copied(artifact_t, tmp_path)
    monkeypatch.setattr(machine, "find_gpu", lambda: None)
    with pytest.raises(StageFailed, match="docker run"):
        build_engines(BuildOptions(exports=tmp_path))
    said = f"{artifact.manifest.name} has no model.fp16.onnx: converting it to fp16 first"
    assert said in capsys.readouterr().err
    build_trt(artifact.directory, flavor="rtx")
    assert said not in capsys.readouterr().err
    with pytest.raises(BadInput, match="one precision at a time"):
        build_trt(artifact.directory, precision="all")


def test_the_recorded_command_gives_the_options_again(built_t, monkeypatch):
    record = engines_of(built_t, Precision.INT8, Flavor.RTX)[0].record
    seen = []
    monkeypatch.setattr(library, "build_engines", lambda options: seen.append(options) or [])
    assert CliRunner().invoke(app, shlex.split(record.command)[1:]).exit_code == 0
    name, exports = built_t.manifest.name, built_t.directory.parent
    assert seen == [replace(RTX, models=(name,), exports=exports, precision="int8")]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"optimization_level": 6}, "outside 0..5"),
        ({"workspace": 0}, "--workspace 0 is outside"),
        ({"target": "triton:26.07"}, "is not tritonserver:YY.MM"),
        ({"target": "tritonserver:19.01"}, "known releases: 26.04"),
        (
            {"flavor": Flavor.RTX, "target": "tritonserver:26.07"},
            "--target tritonserver:26.07 is for --flavor tens",
        ),
        ({"flavor": Flavor.RTX, "version_compatible": True}, "is for --flavor tensorrt"),
        ({"compute_capability": ("8.9",)}, r"--compute-capability 8\.9 is for --flavor rtx"),
    ],
)
def test_options_that_do_not_go_are_refused(options, reason):
    with pytest.raises(BadInput, match=reason):
        BuildOptions(**options)


def test_releases_say_where_they_were_read():
    for release in triton_releases().values():
        assert release.tensorrt_source and release.onnxruntime_source
        assert int(release.tensorrt.split(".")[0]) == (10 if release.name < "26.06" else 11)


def test_the_command_builds_all_and_ends_in_a_table(artifact_t, detection_artifact_t, tmp_path):
    exports = tmp_path / "exports"
    exports.mkdir()
    copied(artifact_t, exports)
    copied(detection_artifact_t, exports)
    arguments = ["build-trt", "--exports", str(exports), "--precision", "all", "--flavor", "rtx"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 3
    assert "model.fp32.rtx.plan" in done.stdout
    assert "failed" in done.stdout
    assert "1 of 2 failed" in done.stderr and "RoiAlign" in done.stderr
    one = [*arguments[:1], artifact_t.manifest.name, *arguments[1:], "--json"]
    done = CliRunner().invoke(app, one)
    assert done.exit_code == 0, done.stderr
    (document,) = json_document("build-trt", done.stdout)
    assert document["record"]["network_layers"]["source"] == "network"
    assert document["path"].endswith("model.fp32.rtx.plan")


#: As TensorRT 10 and 11 write it, shortened.
REPORTS = {
    10: {
        "Layers": [
            {
                "Name": "conv",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            },
            {
                "Name": "q/MatMul",
                "LayerType": "gemm",
                "Inputs": [{"Format/Datatype": "Row major linear FP32"}],
            },
            {"Name": "reformat", "LayerType": "Reformat", "Inputs": []},
        ],
        "Bindings": ["images", "logits"],
    },
    11: {
        "Layers": [
            {"LayerType": "conv", "Inputs": [{"DataType": "Half", "Format": "Row major linear"}]},
            {"LayerType": "gemm", "Inputs": [{"DataType": "Float", "Format": "Row major linear"}]},
            {"LayerType": "kgen", "Inputs": [{"DataType": "Float"}]},
        ]
    },
}


@pytest.mark.parametrize("version", REPORTS)
def test_the_inspectors_report_is_counted(version):
    layers = layers_of_report(json.dumps(REPORTS[version]))
    assert layers.source == "inspector"
    assert layers.layers == {"convolution": {"fp16": 1}, "matrix multiply": {"fp32": 1}}


@pytest.mark.parametrize("report", ["", "not json", '{"Layers": ["names", "only"]}'])
def test_a_report_without_types_is_no_proof(report):
    assert layers_of_report(report) is None


def installed(flavor):
    try:
        return bindings(flavor)
    except StageFailed:
        return None


@pytest.mark.gpu
@pytest.mark.skipif(
    find_gpu() is None or not installed(Flavor.TENSORRT),
    reason="no GPU, or no TensorRT: the engine inspector was not run",
)
def test_the_inspector_agrees_with_the_network(built_t, tmp_path):
    artifact = copied(built_t, tmp_path)
    for precision in BUILT:
        record = build_trt(artifact.directory, precision=precision).record
        assert record.inspected_layers is not None
        assert record.inspected_layers.count(precision) > 0
