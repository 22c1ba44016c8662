"""How `validate` judges: limits, options, the gate beside agreement, chance, and the culprit."""

import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from dfvt_deploy.cli.parameters import add_command
from dfvt_deploy.compare import comparison_of
from dfvt_deploy.compare.agreement import checks, figures
from dfvt_deploy.errors import BadInput
from dfvt_deploy.evaluate.judge import chance_level, conclude, culprit_of, judge
from dfvt_deploy.evaluate.metrics import metric_of
from dfvt_deploy.evaluate.options import ValidateOptions
from dfvt_deploy.evaluate.results import Basis, ChanceLevel, GateFigures, StageResult, Unjudged
from dfvt_deploy.evaluate.stages import Stage
from dfvt_deploy.evaluate.summary import StageSums, Summary, stage_results
from dfvt_deploy.manifest import Check
from dfvt_deploy.types import Precision, Task

CLASSIFICATION = comparison_of(Task.CLASSIFICATION)
DETECTION = comparison_of(Task.DETECTION)


def test_a_check_has_the_figure_that_a_limit_would_have_to_allow():
    reference = {"logits": np.array([[3.0, 1.0, -4.0]], np.float32)}
    candidate = {"logits": reference["logits"] + np.float32(0.08)}
    found = CLASSIFICATION.outputs(reference, candidate)
    (check, *_) = checks(found, CLASSIFICATION.limits[Precision.FP16])
    assert check.figure == pytest.approx(0.02, rel=1e-5)
    assert not check.passed
    assert all(c.passed for c in checks(found, CLASSIFICATION.limits[Precision.INT8]))


def test_what_is_not_finite_passes_no_limit():
    reference = {"logits": np.zeros((1, 3), np.float32)}
    candidate = {"logits": np.array([[0, np.nan, 0]], np.float32)}
    found = CLASSIFICATION.outputs(reference, candidate)
    for limits in CLASSIFICATION.limits.values():
        (broken,) = (check for check in checks(found, limits) if not check.passed)
        assert (broken.name, broken.kind) == ("non-finite values", "sanity")


def test_every_limit_is_about_a_figure_that_there_is():
    """A misspelt one would never fail."""
    samples = {
        Task.CLASSIFICATION: {"logits": np.zeros((1, 3), np.float32)},
        Task.SEGMENTATION: {"class_map": np.zeros((1, 32, 32), np.uint8)},
        Task.DETECTION: _detector((_BOX, 0.9, 1)),
    }
    for task, outputs in samples.items():
        found = comparison_of(task).outputs(outputs, outputs)
        comparison = comparison_of(task)
        for limits in (*comparison.limits.values(), *comparison.breakage.values()):
            assert {limit.figure for limit in limits} <= figures(found).keys()
            assert all(check.passed for check in checks(found, limits))


def _detector(*rows) -> dict:
    """A detector's outputs for one image: box, score, and the share of the mask that is set."""
    unused = 2 - len(rows)
    masks = np.zeros((1, 2, 28, 28), np.float32)
    for i, (_, _, filled) in enumerate(rows):
        masks[0, i, : round(28 * filled)] = 1
    return {
        "boxes": np.array([[*(row[0] for row in rows), *[_BOX] * unused]], np.float32),
        "scores": np.array([[*(row[1] for row in rows), *[0] * unused]], np.float32),
        "labels": np.array([[0] * len(rows) + [-1] * unused]),
        "masks": masks,
    }


_BOX, _OTHER = (0, 0, 9, 9), (20, 20, 90, 90)


@pytest.mark.parametrize(
    ("candidate", "broken"),
    [
        (((_BOX, 0.9, 1),), []),
        (((_BOX, 0.9, 0.5),), ["mask_iou"]),
        (((_BOX, 0.5, 1),), ["scores, mean absolute"]),
        (((_BOX, 0.9, 1), (_OTHER, 0.9, 1)), ["new detections"]),
    ],
)
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_a_detector_that_only_finds_the_boxes_again_does_not_agree(precision, candidate, broken):
    found = DETECTION.outputs(_detector((_BOX, 0.9, 1)), _detector(*candidate))
    limits = DETECTION.limits[precision]
    assert [c.name for c in checks(found, limits) if not c.passed] == broken


def test_answers_of_other_classes_with_the_same_scores_do_not_agree():
    answers = {
        "class_ids": np.array([[1, 2]], np.int32),
        "scores": np.array([[0.9, 0.1]], np.float32),
        "labels": np.array([[b"b", b"c"]], object),
    }
    shifted = {**answers, "class_ids": answers["class_ids"] - 1}
    shifted["labels"] = np.array([[b"a", b"b"]], object)
    found = CLASSIFICATION.answers(answers, shifted)
    for limits in CLASSIFICATION.answer_limits.values():
        assert not all(check.passed for check in checks(found, limits))


def test_agreement_on_nothing_decides_nothing():
    limits = DETECTION.limits[Precision.FP32]
    stages = [
        Stage(Task.DETECTION, name, source, name, lambda before: before, "outputs", limits)
        for name, source in (("pytorch", None), ("onnx", "pytorch"))
    ]
    nothing = DETECTION.outputs(_detector(), _detector())
    options = SimpleNamespace(max_drop=None)
    sums = {"pytorch": StageSums(), "onnx": StageSums(nothing, nothing)}
    built = SimpleNamespace(made=stages, manifest=SimpleNamespace(files={}), options=options)
    results = stage_results(built, Summary(None, sums, images=1), None)
    judged = [judge(result, finds_nothing=True) for result in results]
    assert judged[1].basis is Basis.NOTHING_FOUND
    found = conclude(judged, 1, [])
    assert (found.outcome, found.culprit) == ("inconclusive", None)
    assert "finds nothing on these images" in found.reason
    assert judge(results[1], finds_nothing=False).outcome == "passed"


def _check(passed: bool, kind: str = "release") -> Check:
    return Check(name="pixels", figure=0.92, limit=0.97, at_least=True, passed=passed, kind=kind)


def _measured(
    name,
    source,
    *,
    within=True,
    total=True,
    changes=False,
    step_drop=0.0,
    gate=None,
    kind="release",
) -> StageResult:
    return StageResult(
        name=name,
        source=source,
        title=name,
        precision=Precision.FP32,
        changes=changes,
        step_checks=(_check(within, kind),) if source else (),
        total_checks=(_check(total),) if source else (),
        step_drop=step_drop,
        gate=gate
        and GateFigures(verdict=gate, drop=1, upper_bound=2, limit=1.5, images=9, images_needed=40),
    )


def _stage(*arguments, **options) -> StageResult:
    return judge(_measured(*arguments, **options))


def test_a_stage_that_should_change_nothing_is_held_to_its_step_whatever_the_gate_says():
    assert _stage("simplified", "onnx", within=False, gate="passed").outcome == "failed"
    assert _stage("fp16", "onnx", within=False, changes=True, gate="passed").outcome == "passed"
    assert _stage("fp16", "onnx", within=False, changes=True).outcome == "failed"
    assert _stage("fp16", "onnx", total=False, changes=True).outcome == "failed"
    insane = _stage("fp16", "onnx", within=False, changes=True, gate="passed", kind="sanity")
    assert (insane.outcome, insane.basis) == ("failed", Basis.STEP)
    inconclusive = _stage("fp16", "onnx", changes=True, gate="inconclusive")
    assert "about 40 images would decide" in inconclusive.reason


def test_the_culprit_is_the_first_on_the_way_that_left_its_limits():
    stages = [
        _stage("pytorch", None),
        _stage("onnx", "pytorch"),
        _stage("fp16", "onnx", within=False, changes=True, gate="passed"),
        _stage("int8", "onnx", within=False, changes=True, gate="passed"),
        _stage("network", "fp16", gate="failed"),
    ]
    assert culprit_of(stages) == "fp16", "it is on the way to the one that failed, int8 is not"
    own = [*stages[:-1], _stage("postprocess", "fp16", within=False, gate="failed")]
    assert culprit_of(own) == "postprocess", "its own step is what failed, and the gate passed fp16"


def test_the_culprit_is_that_with_the_largest_drop_where_all_kept_their_limits():
    stages = [
        _stage("pytorch", None),
        _stage("onnx", "pytorch", step_drop=0.1, gate="passed"),
        _stage("fp16", "onnx", step_drop=0.9, changes=True, gate="inconclusive"),
        _stage("network", "fp16", step_drop=0.2, gate="failed"),
    ]
    assert culprit_of(stages) == "fp16"
    assert culprit_of(stages[:2]) is None


def test_agreement_that_a_gate_outweighs_is_not_called_within_its_limits():
    stages = [
        _stage("pytorch", None),
        _stage("onnx", "pytorch", gate="passed"),
        _stage("int8", "onnx", within=False, changes=True, gate="passed"),
    ]
    found = conclude(stages, 9, [], "miou")
    assert found.outcome == "passed"
    assert found.reason == (
        "the drop of miou is within 1.5 points at every stage, but int8: agreement is beyond its "
        "limits: pixels 0.92 (≥ 0.97)"
    )
    assert "within its limits" not in found.reason
    assert "pixels 0.92" in stages[2].reason
    assert conclude(stages[:2], 9, [], "miou").reason.endswith("so is the agreement of all")
    assert (
        "agreement" in conclude([_stage("pytorch", None), _stage("onnx", "pytorch")], 9, []).reason
    )


def test_a_reference_at_chance_decides_nothing():
    level = ChanceLevel(score=0, lower_bound=0, chance=0.67, needed=2.67)
    measured = [
        _measured("pytorch", None),
        _measured("onnx", "pytorch"),
        _measured("int8", "onnx", within=False, changes=True),
    ]
    judged = [judge(stage, level) for stage in measured]
    assert [stage.outcome for stage in judged] == ["reference", "inconclusive", "inconclusive"]
    found = conclude(judged, 12, [], "miou", level)
    assert (found.outcome, found.culprit) == ("inconclusive", None)
    for part in ("miou of the reference is 0.00", "untrained", "labels", "preprocessing"):
        assert part in found.reason
    assert "int8: agreement is beyond its limits: pixels 0.92 (≥ 0.97)" in found.reason
    broken = judge(_measured("onnx", "pytorch", within=False), level)
    assert (broken.outcome, broken.basis) == ("failed", Basis.STEP)


def _ranks(right: int, images: int) -> list[dict]:
    return [
        {"id": str(i), "truth": i % 10, "answer": 0, "rank": 0 if i < right else None}
        for i in range(images)
    ]


def _class_map(truth, answered) -> dict:
    classes = sorted({*truth, *answered})
    return {
        "id": "a",
        "classes": classes,
        "intersection": [
            sum(t == a == c for t, a in zip(truth, answered, strict=True)) for c in classes
        ],
        "answered": [answered.count(c) for c in classes],
        "annotated": [truth.count(c) for c in classes],
    }


def _boxes(right: int, wrong: int) -> dict:
    """One class with `right` objects that are found, and as many detections that find nothing."""
    found = [1023] * right + [0] * wrong
    return {
        "id": "a",
        "classes": [
            {
                "class": 0,
                "objects": max(right, 1),
                "scores": [0.9] * len(found),
                **dict.fromkeys(("box", "mask"), found),
                **dict.fromkeys(("box_ignored", "mask_ignored"), [0] * len(found)),
            }
        ],
    }


@pytest.mark.parametrize(
    ("task", "results", "num_classes", "chance", "at_chance"),
    [
        (Task.CLASSIFICATION, _ranks(2, 2), 10, 10, False),
        (Task.CLASSIFICATION, _ranks(28, 30), 10, 10, False),
        (Task.CLASSIFICATION, _ranks(6, 30), 10, 10, True),  # by luck
        (Task.CLASSIFICATION, _ranks(0, 30), 1000, 0.1, True),
        (Task.CLASSIFICATION, _ranks(12, 1000), 1000, 0.1, True),  # folders sorted as text
        (Task.CLASSIFICATION, _ranks(780, 1000), 1000, 0.1, False),
        (Task.SEGMENTATION, [_class_map([0, 1, 2, 3], [0, 1, 2, 2])] * 4, 4, 25, False),
        (Task.SEGMENTATION, [_class_map([0, 1, 2, 3], [0, 0, 0, 0])] * 4, 4, 25, True),
        (Task.SEGMENTATION, [_class_map([0, 1], [7, 9])] * 4, 150, 100 / 150, True),
        (Task.DETECTION, [_boxes(3, 0)] * 4, 80, 0, False),
        (Task.DETECTION, [_boxes(0, 3)] * 4, 80, 0, True),
        (Task.DETECTION, [{"id": "a", "classes": []}], 80, 0, True),  # nothing to be found
    ],
)
def test_chance_by_metric(task, results, num_classes, chance, at_chance):
    found = chance_level(metric_of(task), results, num_classes)
    assert found.chance == pytest.approx(chance, abs=1e-5)
    assert found.at_chance is at_chance


def test_images_that_could_not_be_judged_fail_whatever_the_stages_say():
    unjudged = [Unjudged(image="a.jpg", stage="decoding", reason="cut")]
    found = conclude([_stage("pytorch", None), _stage("onnx", "pytorch")], 2, unjudged)
    assert (found.outcome, found.culprit) == ("failed", "decoding")
    assert "1 of 3 images could not be judged, such as a.jpg" in found.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "imagenet"}, "--dataset imagenet needs --data"),
        ({"max_drop": 1.0}, "--max-drop .* needs --dataset"),
        ({"dataset": "coco", "data": "d", "max_drop": -1.0}, r"-1 is outside 0\.\.100"),
        ({"data": "d"}, "--data d needs --dataset"),
        ({"dataset": "coco", "data": "d", "images": "e"}, "leave it out with --dataset"),
        ({"serve": True, "url": "a:1"}, "give one of them"),
        ({"served": "model.onnx"}, "--served model.onnx is for --url"),
        ({"workers": 0}, r"--workers 0 is outside 1\.\.1024"),
        ({"limit": 0}, "--limit 0 is below 1"),
        ({"layers": "simplified"}, "--layers 'simplified' is none of fp16, int8"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        ValidateOptions(model="m", **options)


def test_the_recorded_command_gives_the_same_options_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x.pth", "list.txt"):
        (tmp_path / name).touch()
    options = ValidateOptions(
        model="m",
        exports="a b/exports",
        checkpoint="x.pth",
        precisions=["fp16", "int8"],
        engines=["model.fp16.sm90.plan"],
        url="127.0.0.1:8001",
        served="model.fp16.onnx",
        dataset="imagenet",
        data="list.txt",
        limit=30,
        max_drop=0.5,
        layers="fp16",
        fresh=True,
    )
    parsed: list[ValidateOptions] = []
    app = typer.Typer()
    add_command(ValidateOptions, to=app)(lambda found: parsed.append(found))
    result = CliRunner().invoke(app, shlex.split(options.command_line())[2:])
    assert result.exit_code == 0, result.output
    assert parsed == [options]
