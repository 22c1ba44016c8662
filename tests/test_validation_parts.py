"""The parts of `validate` that need no model: the store, the limits, the judge, the report."""

import html.parser
import json
from types import SimpleNamespace

import numpy as np
import pytest

from dfvt_deploy.artifact import Check
from dfvt_deploy.errors import ArtifactError, BadInput
from dfvt_deploy.evaluate.account import Account, HopSums, concluded, judged_hops
from dfvt_deploy.evaluate.agreement import Agreement, compare_answers, compare_outputs
from dfvt_deploy.evaluate.hops import Hop
from dfvt_deploy.evaluate.limits import ANSWERS, NETWORK, checks, figures
from dfvt_deploy.evaluate.report import Picture, html_report, waterfall
from dfvt_deploy.evaluate.request import Request
from dfvt_deploy.evaluate.store import ResultStore
from dfvt_deploy.evaluate.verdict import (
    ClassChange,
    GateFigures,
    HopResult,
    ImageChange,
    NotRun,
    Unjudged,
    Validation,
    guilty_of,
    judge,
)
from dfvt_deploy.types import Precision, Task

EVIL = '<script>alert("x")</script>&'


def test_a_line_that_was_not_finished_is_dropped_and_the_rest_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultStore(path) as store:
        store.append("a", "1", {"value": 0.1 + 0.2})
        store.append("b", "1", {"value": 2})
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with ResultStore(path) as store:
        assert ("a", "1") in store
        assert ("b", "1") not in store
        store.append("b", "1", {"value": 2})
        assert [line["value"] for line in store.read([("b", "1"), ("a", "1")])] == [2, 0.1 + 0.2]
    assert path.read_bytes() == whole


def test_a_result_is_of_one_state_of_its_image(tmp_path):
    with ResultStore(tmp_path / "r") as store:
        store.append("a", "before", {"value": 1})
        assert ("a", "after") not in store


def test_a_damaged_store_is_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"id": "a", "digest": "1"}\nnonsense\n{"id": "b", "digest": "1"}\n')
    with pytest.raises(ArtifactError, match=r"line 2 is damaged .*--fresh"):
        ResultStore(path).__enter__()


def test_a_check_tells_the_limit_that_would_have_been_needed():
    reference = {"logits": np.array([[3.0, 1.0, -4.0]], np.float32)}
    candidate = {"logits": reference["logits"] + np.float32(0.08)}
    found = compare_outputs(Task.CLASSIFICATION, reference, candidate)
    limits = NETWORK[Task.CLASSIFICATION]
    (check, *_) = checks(found, limits[Precision.FP16])
    assert check.figure == pytest.approx(0.02, rel=1e-5)
    assert not check.passed
    assert all(c.passed for c in checks(found, limits[Precision.INT8]))


def test_what_is_not_finite_passes_no_limit():
    reference = {"logits": np.zeros((1, 3), np.float32)}
    candidate = {"logits": np.array([[0, np.nan, 0]], np.float32)}
    found = compare_outputs(Task.CLASSIFICATION, reference, candidate)
    for limits in NETWORK[Task.CLASSIFICATION].values():
        assert [c.name for c in checks(found, limits) if not c.passed] == [
            "non-finite values at most"
        ]


def test_every_limit_is_about_a_figure_that_there_is():
    """A misspelt one would never fail."""
    samples = {
        Task.CLASSIFICATION: {"logits": np.zeros((1, 3), np.float32)},
        Task.SEGMENTATION: {"class_map": np.zeros((1, 32, 32), np.uint8)},
        Task.DETECTION: {
            "boxes": np.array([[[0, 0, 9, 9]]], np.float32),
            "scores": np.array([[0.9]], np.float32),
            "labels": np.array([[0]]),
            "masks": np.ones((1, 1, 28, 28), np.float32),
        },
    }
    for task, outputs in samples.items():
        known = figures(compare_outputs(task, outputs, outputs))
        for limits in NETWORK[task].values():
            assert {limit.figure for limit in limits} <= known.keys()
            assert all(
                check.passed for check in checks(compare_outputs(task, outputs, outputs), limits)
            )


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
        (((_BOX, 0.9, 0.5),), ["mask_iou at least"]),
        (((_BOX, 0.5, 1),), ["scores, mean absolute at most"]),
        (((_BOX, 0.9, 1), (_OTHER, 0.9, 1)), ["new detections at most"]),
    ],
)
@pytest.mark.parametrize("precision", list(Precision))
def test_a_detector_that_only_finds_the_boxes_again_does_not_agree(precision, candidate, broken):
    found = compare_outputs(Task.DETECTION, _detector((_BOX, 0.9, 1)), _detector(*candidate))
    limits = NETWORK[Task.DETECTION][precision]
    assert [c.name for c in checks(found, limits) if not c.passed] == broken


def test_agreement_on_nothing_decides_nothing():
    plan = SimpleNamespace(
        hops=[
            Hop(name, source, name, None, None, NETWORK[Task.DETECTION][Precision.FP32])
            for name, source in (("pytorch", None), ("onnx", "pytorch"))
        ]
    )
    artifact = SimpleNamespace(manifest=SimpleNamespace(task=Task.DETECTION, files={}))
    nothing = compare_outputs(Task.DETECTION, _detector(), _detector())
    account = Account(None, 1, hops={"pytorch": HopSums(), "onnx": HopSums(nothing, nothing)})
    judged = judged_hops(plan, artifact, account, None)
    assert judged["onnx"].outcome == "inconclusive"
    guilty, outcome, reason = concluded(list(judged.values()), account)
    assert (guilty, outcome) == (None, "inconclusive")
    assert "finds nothing above score 0.1" in reason
    account.hops["pytorch"].classes[3] = 1.0
    assert judged_hops(plan, artifact, account, None)["onnx"].outcome == "passed"


def test_answers_of_other_classes_with_the_same_scores_do_not_agree():
    answers = {
        "class_ids": np.array([[1, 2]], np.int32),
        "scores": np.array([[0.9, 0.1]], np.float32),
        "labels": np.array([[b"b", b"c"]], object),
    }
    shifted = {**answers, "class_ids": answers["class_ids"] - 1}
    shifted["labels"] = np.array([[b"a", b"b"]], object)
    found = compare_answers(Task.CLASSIFICATION, answers, shifted)
    for limits in ANSWERS[Task.CLASSIFICATION].values():
        assert not all(check.passed for check in checks(found, limits))


def _check(passed: bool) -> Check:
    return Check(name="logits, max relative at most", figure=0.5, limit=0.1, passed=passed)


def _hop(name, source, *, within=True, total=True, changes=False, step_drop=0.0, gate=None):
    return judge(
        HopResult(
            name=name,
            source=source,
            title=name,
            precision=Precision.FP32,
            changes=changes,
            step_checks=(_check(within),) if source else (),
            total_checks=(_check(total),) if source else (),
            step_drop=step_drop,
            gate=gate
            and GateFigures(
                verdict=gate, drop=1, upper_bound=2, limit=1.5, images=9, images_needed=40
            ),
            outcome="reference",
        )
    )


def test_a_hop_that_should_change_nothing_is_held_to_its_step_whatever_the_gate_says():
    assert _hop("simplified", "onnx", within=False, gate="passed").outcome == "failed"
    assert _hop("fp16", "onnx", within=False, changes=True, gate="passed").outcome == "passed"
    assert _hop("fp16", "onnx", within=False, changes=True).outcome == "failed"
    assert _hop("fp16", "onnx", total=False, changes=True).outcome == "failed"
    inconclusive = _hop("fp16", "onnx", changes=True, gate="inconclusive")
    assert "about 40 images would decide" in inconclusive.reason


def test_the_guilty_hop_is_the_first_on_the_way_that_left_its_limits():
    hops = [
        _hop("pytorch", None),
        _hop("onnx", "pytorch"),
        _hop("fp16", "onnx", within=False, changes=True, gate="passed"),
        _hop("int8", "onnx", within=False, changes=True, gate="passed"),
        _hop("network", "fp16", gate="failed"),
    ]
    assert guilty_of(hops) == "fp16", "it is on the way to the one that failed, int8 is not"
    own = [*hops[:-1], _hop("postprocess", "fp16", within=False, gate="failed")]
    assert guilty_of(own) == "postprocess", "its own step is what failed, and the gate passed fp16"


def test_the_guilty_hop_is_that_with_the_largest_drop_where_all_kept_their_limits():
    hops = [
        _hop("pytorch", None),
        _hop("onnx", "pytorch", step_drop=0.1, gate="passed"),
        _hop("fp16", "onnx", step_drop=0.9, changes=True, gate="inconclusive"),
        _hop("network", "fp16", step_drop=0.2, gate="failed"),
    ]
    assert guilty_of(hops) == "fp16"
    assert guilty_of(hops[:2]) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "imagenet"}, "--dataset imagenet needs --data"),
        ({"max_drop": 1.0}, "--max-drop .* needs --dataset"),
        ({"dataset": "coco", "data": "d", "max_drop": -1.0}, r"-1 is outside 0\.\.100"),
        ({"data": "d"}, "--data needs --dataset"),
        ({"serve": True, "url": "a:1"}, "give one of them"),
        ({"served": "model.onnx"}, "--served is for --url"),
        ({"workers": 0}, r"--workers 0 is outside 1\.\.1024"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        Request(**options)


def _validation(**changes) -> Validation:
    logits = np.array([[3.0, 1.0, -4.0]], np.float32)
    step = compare_outputs(
        Task.CLASSIFICATION, {"logits": logits}, {"logits": logits + np.float32(0.5)}
    )
    hops = (
        HopResult(
            name="pytorch",
            source=None,
            title="PyTorch",
            precision=Precision.FP32,
            changes=False,
            scores={"top1": 97.5},
            outcome="reference",
        ),
        HopResult(
            name="fp16",
            source="pytorch",
            title=EVIL,
            precision=Precision.FP16,
            changes=True,
            step=step,
            total=step,
            step_checks=checks(step, NETWORK[Task.CLASSIFICATION][Precision.FP16]),
            scores={"top1": 91.25},
            drop=6.25,
            step_drop=6.25,
            outcome="failed",
        ),
    )
    return Validation(
        **{
            "model": "m",
            "task": Task.CLASSIFICATION,
            "created": "now",
            "command": "dfvt-deploy validate m",
            "commands": (EVIL,),
            "outcome": "failed",
            "guilty": "fp16",
            "reason": EVIL,
            "reference": "PyTorch",
            "dataset": EVIL,
            "images": 80,
            "metric": "top1",
            "max_drop": 1.0,
            "hops": hops,
            "not_run": (NotRun(name=EVIL, reason=EVIL),),
            "unjudged": (Unjudged(image=EVIL, hop="decoding", reason=EVIL),),
            "refused": 3,
            "shown": "fp16",
            "classes": (
                ClassChange(
                    class_id=0,
                    label=EVIL,
                    reference=4,
                    candidate=2,
                    reference_score=50.0,
                    candidate_score=25.0,
                ),
            ),
            "changed": (ImageChange(image=EVIL, change=100),),
            "notes": (EVIL,),
            "checkpoint": EVIL,
            "versions": {EVIL: EVIL},
            "hardware": {"cores": EVIL},
            "seconds": 1,
            **changes,
        }
    )


class _Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside of style."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def _parsed(page: str) -> _Page:
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_the_report_takes_nothing_from_elsewhere_and_escapes_what_it_is_given():
    pictures = [
        Picture(EVIL, 1, "data:image/jpeg;base64,AA", "data:image/jpeg;base64,BB"),
        Picture(EVIL, 1, problem=EVIL),
    ]
    text = html_report(_validation(), pictures)
    page = _parsed(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(EVIL) >= 12
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object")
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("src", "data:").startswith("data:")
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "").replace(
        "http-equiv", ""
    )
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert "fp16 (guilty)" not in page.text
    assert "failed (guilty)" in page.text
    assert "logits, max relative 0.125 (≤ 0.01)" in page.text


def test_the_waterfall_goes_from_the_figure_before_to_its_own():
    drawn = waterfall(_validation())
    first, second = drawn.bars
    assert second.left == pytest.approx(second.end)
    assert second.left + second.width == pytest.approx(first.end)
    assert second.text == "91.25 (-6.25)"
    assert 0 <= second.end < first.end <= 100


def test_a_report_without_a_judged_image_says_so():
    hops = tuple(
        hop.model_copy(update={"scores": {}, "step": None, "total": None, "step_checks": ()})
        for hop in _validation().hops
    )
    page = _parsed(html_report(_validation(hops=hops, images=0), []))
    assert "No image could be judged" in page.text


def test_a_validation_survives_json():
    found = _validation()
    assert Validation.model_validate(json.loads(found.model_dump_json())) == found
    agreement = found.hop("fp16").step
    assert agreement is not None
    assert Agreement.from_json(json.loads(json.dumps(agreement.as_json()))) == agreement
