"""Heat maps: the published formula, the stroke of a digit, and other runtimes than PyTorch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from dfvt_deploy import explain
from dfvt_deploy.cli import app
from dfvt_deploy.errors import BadInput
from dfvt_deploy.explaining.gradcam import grad_cam_maps
from dfvt_deploy.explaining.heat_maps import correlation, faithfulness, over_image
from dfvt_deploy.explaining.task_explanation import Target
from dfvt_deploy.models.build import model_from_manifest
from dfvt_deploy.pipeline import Pipeline
from dfvt_deploy.progress import steps_bar
from dfvt_deploy.runners.pytorch import PytorchRunner
from dfvt_deploy.start.digits import INK, PAPER
from dfvt_deploy.tasks.images import normalise
from dfvt_deploy.types import Task

from .fixtures import encoded, json_document, photograph

CLASSIFICATION = Task.CLASSIFICATION.entry("explaining", "EXPLANATION")


def published_map(activations, gradients):
    """Grad-CAM++ by loops over (C, h, w), as in equations 10, 19 and 13 of the paper."""
    heat = np.zeros(activations.shape[1:])
    for a, g in zip(activations, gradients, strict=True):
        weight, total = 0.0, a.sum()
        for place in np.ndindex(a.shape):
            first, second, third = g[place], g[place] ** 2, g[place] ** 3
            if first > 0:
                weight += second / (2 * second + total * third) * first
        heat += weight * a
    return np.maximum(heat, 0)


def test_maps_equal_the_published_formula(artifact_t):
    image = photograph(256, 256)
    pipeline, model = Pipeline(artifact_t.manifest), model_from_manifest(artifact_t.manifest)
    (found,) = grad_cam_maps(
        CLASSIFICATION, pipeline, model, "stage4.context", image, [Target("any", class_id=7)]
    )
    x = model.patch_embed(torch.from_numpy(normalise(pipeline.prepare(image)["images"])))
    for stage in range(3):
        x = model.widen(stage, model.forward_stage(stage, x)[0])
    tokens = model.forward_stage(3, x)[0].detach().requires_grad_()
    model.head(model.norm(tokens).mean(dim=(1, 2)))[0, 7].backward()
    pair = (t[0].detach().double().numpy().transpose(2, 0, 1) for t in (tokens, tokens.grad))
    expected = over_image(published_map(*pair), image, (16, 16, 240, 240))
    assert 0.05 < expected.mean() < 0.95
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("fixture", ["detection_artifact_t", "segmentation_artifact_t"])
def test_detections_and_classes_of_a_map_are_explained(fixture, request):
    manifest = request.getfixturevalue(fixture).manifest
    fixed = manifest.preprocessing.model_copy(update={"canvas": (64, 96)})  # small, to be fast
    pipeline = Pipeline(manifest.model_copy(update={"preprocessing": fixed}))
    model, image = model_from_manifest(manifest), photograph(90, 60)
    task = manifest.task.entry("explaining", "EXPLANATION")
    inputs = pipeline.prepare(image)
    with PytorchRunner(pipeline.manifest, model) as runner:
        answers = pipeline.postprocess(inputs, runner.infer(pipeline.feed(inputs)))
    answers = {name: value[0] for name, value in answers.items()}
    best, second = task.targets(answers, manifest.labels, [], [], 2)
    assert task.targets(answers, manifest.labels, [second.class_id], [], 1)[0].name == second.name
    if best.box:
        assert best.name.endswith(" #1")
        (again,) = task.targets(answers, manifest.labels, [], [2], 1)
        assert again == second
        assert task.score(answers, best) == pytest.approx(answers["scores"][0])
    else:
        assert best.region.shape == (60, 90)
        assert best.region.sum() >= second.region.sum()
        assert task.score(answers, best) == 1
    images = torch.from_numpy(normalise(inputs["images"]))
    logits = {
        i: task.logit(model, images, inputs, replace(best, class_id=i)).item()
        for i in (best.class_id, *range(0, manifest.num_classes, 25))
    }
    assert max(logits, key=logits.get) == best.class_id
    maps = grad_cam_maps(task, pipeline, model, "stage1.spatial", image, [best, second])
    for heat in maps:
        assert heat.shape == (60, 90)
        assert 0 <= heat.min() < heat.max() == 1
    assert not np.allclose(*maps)


def stroke_of(image):
    """Where an image of a digit has more ink than paper."""
    pixels = np.asarray(image).astype(float)
    return np.linalg.norm(pixels - INK, axis=2) < np.linalg.norm(pixels - PAPER, axis=2)


def test_maps_of_digits_lie_on_the_stroke(digits, digits_artifact, tmp_path):
    paths = [next((digits.heldout / name).iterdir()) for name in "0123456789"]
    found = explain(
        paths, "digits", exports=digits_artifact.directory.parent, output=tmp_path / "out"
    )
    seen = slice(4, 60)  # the centre crop
    energy, chance = [], []
    for path, each in zip(paths, found, strict=True):
        with Image.open(path) as image:
            stroke = stroke_of(image)[seen, seen]
        heat = np.load(each.array)[seen, seen]
        energy.append(heat[stroke].sum() / heat.sum())
        chance.append(stroke.mean())
    assert np.mean(energy) > 1.3 * np.mean(chance)
    assert np.mean([each.faithfulness.figure for each in found]) > 0.2
    assert np.mean([each.sanity for each in found]) < 0.5


def test_a_server_and_other_runtimes_are_explained_as_model_onnx_is(artifact_t, server, tmp_path):
    (tmp_path / "a b.png").write_bytes(encoded(photograph(48, 40), "PNG"))
    command = ["explain", str(tmp_path / "a b.png"), "--model", artifact_t.manifest.name, "--json"]
    command += ["--exports", str(artifact_t.directory.parent), "--output", str(tmp_path / "out")]
    command += ["--method", "occlusion", "--grid", "4"]
    for other in (["--url", server.grpc_url], ["--runtime", "openvino"]):
        done = CliRunner().invoke(app, [*command, *other])
        assert done.exit_code == 0, done.stderr
        here, there = json_document("explain", done.stdout)
        assert here["source"] == "fp32 onnxruntime"
        assert there["agreement"] > 0.99
        maps = [np.load(each["array"]) for each in (here, there)]
        assert abs(np.subtract(*(map(np.argmax, maps)))) <= 1
        np.testing.assert_allclose(*maps, atol=0.02)
        assert maps[0].shape == (40, 48)
        assert maps[0].max() == 1
        assert here["picture"] == there["picture"]
        with Image.open(here["picture"]) as picture:
            assert picture.width > 3 * 360
    assert len(list((tmp_path / "out").iterdir())) == 1 + 3


@pytest.mark.parametrize(
    "fields", [{"layers": ("stage1.context", "stage4.spatial"), "top": 2}, {"grid": 2}]
)
def test_progress_knows_how_many_answers_there_will_be(fields, artifact_t, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(encoded(photograph(40, 30), "PNG"))
    (bar := steps_bar()).disable = True
    monkeypatch.setattr("dfvt_deploy.explaining.explain.steps_bar", lambda: bar)
    method = "occlusion" if "grid" in fields else "grad-cam++"
    folders = {"exports": artifact_t.directory.parent, "output": tmp_path / "maps"}
    explain([str(tmp_path)], artifact_t.manifest.name, method=method, **folders, **fields)
    (task,) = bar.tasks
    assert task.completed == task.total > 2 * 23


def test_figures_know_a_good_map_from_a_bad_one():
    image = Image.new("RGB", (64, 64), "black")
    image.paste("white", (20, 20, 28, 28))
    good = np.zeros((64, 64), np.float32)
    good[20:28, 20:28] = 1

    def ask(changed):  # the answer is how much of the square is there
        score = np.asarray(changed)[20:28, 20:28].mean() / 255
        return {"class_ids": np.array([0]), "scores": np.array([score])}

    noise = np.random.default_rng(0).random((2, 64, 64)).astype(np.float32)
    figures = [
        faithfulness(CLASSIFICATION, ask, image, Target("square", 0), heat).figure
        for heat in (good, noise[0], 1 - good)
    ]
    assert figures[0] > 0.8
    assert abs(figures[1]) < 0.1
    assert figures[2] < -0.8
    assert correlation(good, good, (0, 0, 64, 64)) == pytest.approx(1)
    assert abs(correlation(*noise, (0, 0, 64, 64))) < 0.1
    assert correlation(good, np.ones_like(good), (0, 0, 64, 64)) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ["no-such"]}, "--class 'no-such' is none of the model's 1000 classes: tench"),
        ({"grid": 3}, "--grid 3 is for --method occlusion"),
        ({"method": "occlusion", "layers": ["stage1.spatial"]}, "is for --method grad-cam"),
        ({"layers": ["stage5.spatial"]}, "--layer 'stage5.spatial' is none of stage1.context"),
        ({"method": "occlusion", "precision": "fp16"}, "has no model.fp16.onnx; make it with"),
        (
            {"method": "occlusion", "precision": "int8", "url": "a:1"},
            "does nothing with --url",
        ),
    ],
)
def test_what_cannot_be_explained_is_refused(artifact_t, tmp_path, fields, message):
    image = tmp_path / "a.png"
    image.write_bytes(encoded(photograph(20, 20), "PNG"))
    where = {"exports": artifact_t.directory.parent, "output": tmp_path / "out"}
    with pytest.raises(BadInput, match=message):
        explain([image], artifact_t.manifest.name, **where, **fields)
    assert not (tmp_path / "out").exists()
