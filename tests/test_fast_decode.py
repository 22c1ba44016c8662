"""Decoding at reduced scale: never below the resize, sizes of the file, and verdicts of its own."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfvt_deploy import bench
from dfvt_deploy.artifact import open_artifact, update_manifest
from dfvt_deploy.benchmarking.bench import conclusion
from dfvt_deploy.benchmarking.candidates import candidate_of
from dfvt_deploy.benchmarking.options import BenchOptions, Runtime
from dfvt_deploy.cli.validate import _print_validation
from dfvt_deploy.data import SAMPLES
from dfvt_deploy.errors import BadInput, GateFailed
from dfvt_deploy.evaluate.options import ValidateOptions
from dfvt_deploy.evaluate.validation import validate
from dfvt_deploy.pipeline import Pipeline
from dfvt_deploy.promotion.live_versions import promote, versions
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve
from dfvt_deploy.tasks import classification, detection, segmentation
from dfvt_deploy.tasks.images import ImageError, ImageLimits, decode_image, original_size
from dfvt_deploy.tasks.segmentation import decode_class_map
from dfvt_deploy.types import Precision

from .fixtures import encoded

SIZES = [(4000, 3000), (1601, 1203), (1023, 4099), (2050, 2052), (513, 512), (300, 200), (9000, 40)]


def photograph(width: int, height: int) -> Image.Image:
    with Image.open(SAMPLES / "cat.jpg") as image:
        return image.convert("RGB").resize((width, height))


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, exif=exif, quality=90)


@pytest.mark.parametrize("task", [classification, detection, segmentation])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_is_reduced_as_far_as_its_resize_does_not_enlarge_it(task, orientation, size):
    upright = size if orientation == 1 else size[::-1]
    image = decode_image(jpeg(Image.new("RGB", size), orientation), resized_size=task.resized_size)
    needed = task.resized_size(*upright)
    fits = [s for s in (8, 4, 2) if all(a // s >= b for a, b in zip(upright, needed, strict=True))]
    scale = fits[0] if fits else 1
    assert image.size == tuple(-(-side // scale) for side in upright)
    assert original_size(image) == upright


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_fixed_canvas_limits_the_resize_whichever_way_the_image_is_turned(orientation):
    on_canvas = partial(segmentation.resized_size, canvas=(64, 192))
    for size in ((1000, 800), (800, 1000), (1600, 500)):
        image = decode_image(jpeg(Image.new("RGB", size), orientation), resized_size=on_canvas)
        height, width = on_canvas(*original_size(image)[::-1])
        assert image.height >= height and image.width >= width
        assert image.width < original_size(image)[0], "it is reduced at all"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(2403, 1801), (2050, 2052)], ids=str)
def test_the_input_is_nearly_that_of_the_whole_image_and_its_sizes_are_the_same(orientation, size):
    data = jpeg(photograph(*size), orientation)
    for task in (detection, segmentation):
        pixels, image_size, original = task.preprocess(decode_image(data))
        reduced = decode_image(data, resized_size=task.resized_size)
        found = task.preprocess(reduced)
        assert reduced.size != original_size(reduced)
        assert np.array_equal(found[1], image_size) and np.array_equal(found[2], original)
        assert np.abs(found[0].astype(int) - pixels).mean() < 3
    exact = classification.preprocess(decode_image(data))
    found = classification.preprocess(decode_image(data, resized_size=classification.resized_size))
    assert np.abs(found.astype(int) - exact).mean() < 2


@pytest.mark.parametrize("size", [(451, 300), (600, 400), (300, 640), (257, 256)], ids=str)
def test_only_the_centre_of_a_small_image_is_resampled_nearly_exactly(size):
    data = jpeg(photograph(*size))
    exact = classification.preprocess(decode_image(data))
    fast = decode_image(data, resized_size=classification.resized_size)
    found = classification.preprocess(fast)
    difference = np.abs(found.astype(int) - exact)
    assert fast.size == size
    assert difference.max() <= 2 and difference.mean() < 0.2


def test_a_box_lies_where_it_lies_in_the_file():
    """A mark at the far corner of an image whose sides no scale divides."""
    image, (width, height) = Image.new("RGB", (6405, 4806)), (6405, 4806)
    image.paste((255, 255, 255), (6200, 4700, 6300, 4760))
    reduced = decode_image(jpeg(image), resized_size=detection.resized_size)
    assert reduced.size == (1602, 1202)  # a quarter
    pixels, image_size, original = detection.preprocess(reduced)
    assert original.tolist() == [height, width]
    rows, columns = np.nonzero(pixels[..., 0] > 127)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    masks = np.ones((1, 28, 28), np.float32)
    found = detection.postprocess(box, np.ones(1), np.zeros(1, int), masks, image_size, original)
    pixel = width / 1333  # of the network's input
    assert np.abs(found.boxes[0] - [6200, 4700, 6300, 4760]).max() < 1.5 * pixel
    assert found.masks[0]["size"] == [height, width]


def test_other_formats_are_decoded_whole_and_limits_are_those_of_the_file():
    image = photograph(1600, 1200)
    for format_ in ("PNG", "WEBP"):
        data = encoded(image, format_)
        whole, found = (
            decode_image(data),
            decode_image(data, resized_size=segmentation.resized_size),
        )
        assert np.array_equal(np.asarray(whole), np.asarray(found))
    for data in (
        encoded(image, "MPO"),
        encoded(image.convert("CMYK")),
        encoded(image.convert("L")),
    ):
        assert decode_image(data, resized_size=segmentation.resized_size).size == (800, 600)
    with pytest.raises(ImageError, match="1600x1200 = 1,920,000 pixels, the limit is 1,000,000"):
        decode_image(jpeg(image), ImageLimits(max_pixels=1_000_000), segmentation.resized_size)
    cut = decode_image(jpeg(image), resized_size=segmentation.resized_size).crop((0, 0, 300, 200))
    assert original_size(cut) == (300, 200), "what is cut out is an image of its own"


@pytest.fixture(scope="module")
def large(digits, tmp_path_factory) -> Path:
    """30 held-out digits as noisy JPEG files that are decoded at a quarter."""
    folder, random = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    for label in sorted(digits.heldout.iterdir()):
        (folder / label.name).mkdir()
        for path in sorted(label.iterdir())[:3]:
            pixels = np.asarray(Image.open(path).convert("RGB").resize((1100, 1030)))
            noisy = (pixels + random.normal(0, 20, pixels.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / label.name / f"{path.stem}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def made(digits, digits_artifact, shapes_artifact, large, tmp_path_factory):
    """An exported model that passed, served with reduced decoding, which nothing has judged, and a
    segmenter beside it."""
    root = tmp_path_factory.mktemp("fast")
    model = shutil.copytree(digits_artifact.directory, root / "exports" / "digits")
    labelled = {"checkpoint": digits.checkpoint, "dataset": "imagenet", "data": large}
    options = {**labelled, "max_drop": 5, "threads": 1}
    assert validate(model, **options).outcome == "passed"
    with pytest.raises(
        GateFailed,
        match=r"model\.onnx with --fast-decode was never validated; run: .*digits --fast-decode",
    ):
        populate(model, repository=root / "r", fast_decode=True, require_validated=True)
    populate(model, repository=root / "r", fast_decode=True, threads=1)
    populate(shapes_artifact.directory, repository=root / "r", fast_decode=True, threads=1)
    return model, root / "r", options


@pytest.fixture(scope="module")
def server(made):
    with serve(made[1]) as running:
        yield running


def test_a_version_never_borrows_the_verdict_of_exact_decoding(made, capsys):
    model, repository, options = made
    exact, fast = (
        candidate_of(open_artifact(model), Runtime.ONNXRUNTIME, Precision.FP32, fast)
        for fast in (False, True)
    )
    assert (exact.verdict, fast.verdict) == ("passed", "unvalidated")
    assert fast.title == "onnxruntime fp32 fast-decode"
    (row,) = versions("digits", repository=repository)
    assert row.verdict == "none"
    with pytest.raises(GateFailed, match="run dfvt-deploy validate digits --fast-decode, or"):
        promote("digits", repository=repository, exports=model.parent)

    served = {"serve": True, "repository": repository}
    found = validate(model, **served, **options)
    assert found.outcome == "passed", found.reason
    asked = ValidateOptions(model="digits", exports=model.parent, fast_decode=True)
    _print_validation(found, asked)
    going_on = capsys.readouterr().out.splitlines()[-1]
    assert going_on.startswith(
        "next: dfvt-deploy populate digits --require-validated --fast-decode"
    )
    names = [stage.name for stage in found.stages]
    assert names[2:5] == ["simplified", "simplified fast-decode", "triton preprocess"]
    judged = found.stage("simplified fast-decode")
    assert judged.basis == "gate" and judged.step.tensors["logits"].max_rel > 1e-3
    preprocess = found.stage("triton preprocess")
    assert preprocess.source == judged.name and preprocess.step_checks[0].figure == 0

    assert promote("digits", repository=repository, exports=model.parent).verdicts
    new = populate(model, repository=repository, fast_decode=True, require_validated=True)
    assert new.live
    verdicts = open_artifact(model).manifest.verdicts
    assert verdicts["model.onnx"].verdict == verdicts["model.onnx.fast-decode"].verdict == "passed"
    report = verdicts["model.onnx.fast-decode"].report
    assert (repository / "digits_network" / str(new.version) / report).is_file()


def test_without_labels_the_limits_of_int8_decide(made, large):
    model, _, options = made
    given = {"images": large, "limit": 3, "fast_decode": True, "threads": 1}
    found = validate(model, checkpoint=options["checkpoint"], **given)
    (check,) = (c for c in found.stage("simplified fast-decode").total_checks if c.name == "top1")
    assert check.limit == 0.95 and found.stage("simplified fast-decode").basis == "agreement"


def test_a_failing_verdict_refuses_one_way_to_decode_alone(made, tmp_path):
    model = shutil.copytree(made[0], tmp_path / "digits")

    def change(manifest):
        verdict = manifest.verdicts["model.onnx"].model_copy(update={"verdict": "failed"})
        verdicts = {**manifest.verdicts, "model.onnx.fast-decode": verdict}
        return manifest.model_copy(update={"verdicts": verdicts})

    update_manifest(model, change)
    with pytest.raises(GateFailed, match=r"with --fast-decode did not pass: failed"):
        populate(model, repository=tmp_path / "r", fast_decode=True, require_validated=True)
    assert populate(model, repository=tmp_path / "r", require_validated=True).live


def test_a_server_answers_as_the_pipeline_that_decodes_alike(server, made, large):
    measured = {
        "images": large,
        "limit": 3,
        "url": server.grpc_url,
        "concurrency": (1,),
        "window": 0.3,
    }
    found = bench(made[0], fast_decode=True, **measured)
    (row,) = found.served
    assert row.right and not row.wrong and not row.failed
    assert row.title == "onnxruntime fp32 fast-decode"
    passed = row.model_copy(update={"verdict": "passed"})
    _, command = conclusion(found.model_copy(update={"served": (passed,)}), BenchOptions())
    assert "populate digits" in command and command.endswith("--require-validated --fast-decode")
    (row,) = bench(made[0], **measured).served
    assert row.wrong and not row.right, "the answers are those of another decoding"
    with pytest.raises(BadInput, match="--fast-decode is what the repository says"):
        BenchOptions(serve=True, repository=made[1], fast_decode=True)


def test_a_class_map_has_the_size_of_the_file(server, shapes_artifact):
    data = jpeg(photograph(1001, 703), orientation=6)
    pipeline = Pipeline(shapes_artifact.manifest, fast_decode=True)
    inputs = pipeline.read(data)
    with OnnxRuntimeRunner(shapes_artifact.onnx_path(), threads=1) as runner:
        expected = pipeline.postprocess(inputs, runner.infer(pipeline.feed(inputs)))
    with TritonRunner("shapes", server.grpc_url) as runner:
        answer = runner.infer({"image": np.array([[data]], dtype=np.object_)})
        served = TritonRunner("shapes_preprocess", server.grpc_url)
        with served:
            prepared = served.infer({"image": np.array([[data]], dtype=np.object_)})
    class_map = decode_class_map(answer["class_map"].item())
    assert class_map.shape == (1001, 703)
    assert np.mean(class_map == decode_class_map(expected["class_map"].item())) > 0.999
    assert np.array_equal(prepared["images"], inputs["images"])
    exact = Pipeline(shapes_artifact.manifest).read(data)
    assert np.array_equal(prepared["original_sizes"], exact["original_sizes"])
    assert not np.array_equal(prepared["images"], exact["images"])
