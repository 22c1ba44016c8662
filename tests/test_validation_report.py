"""The report of `validate` and the records behind it."""

import base64
import html.parser
import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from dfvt_deploy.compare import comparison_of
from dfvt_deploy.compare.agreement import Agreement, checks
from dfvt_deploy.errors import MissingDependency
from dfvt_deploy.evaluate.report import Drawn, Picture, html_report, waterfall
from dfvt_deploy.evaluate.results import (
    ClassChange,
    ImageChange,
    NotRun,
    StageResult,
    Unjudged,
    Validation,
)
from dfvt_deploy.evaluate.validation import validate
from dfvt_deploy.types import Precision, Task

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

EVIL = '<script>alert("x")</script>&'


def _validation(**changes) -> Validation:
    logits = np.array([[3.0, 1.0, -4.0]], np.float32)
    comparison = comparison_of(Task.CLASSIFICATION)
    step = comparison.outputs({"logits": logits}, {"logits": logits + np.float32(0.5)})
    stages = (
        StageResult(
            name="pytorch",
            source=None,
            title="PyTorch",
            precision=Precision.FP32,
            changes=False,
            scores={"top1": 97.5},
        ),
        StageResult(
            name="fp16",
            source="pytorch",
            title=EVIL,
            precision=Precision.FP16,
            changes=True,
            step=step,
            total=step,
            step_checks=checks(step, comparison.limits[Precision.FP16]),
            scores={"top1": 91.25},
            drop=6.25,
            step_drop=6.25,
            changed=(ImageChange(image=EVIL, change=100),),
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
            "culprit": "fp16",
            "reason": EVIL,
            "reference": "PyTorch",
            "dataset": EVIL,
            "images": 80,
            "metric": "top1",
            "max_drop": 1.0,
            "stages": stages,
            "not_run": (NotRun(name=EVIL, reason=EVIL),),
            "unjudged": (Unjudged(image=EVIL, stage="decoding", reason=EVIL),),
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
        Picture(
            EVIL, Drawn("data:image/jpeg;base64,AA", (EVIL,)), Drawn("data:image/jpeg;base64,BB")
        ),
        Picture(EVIL, problem=EVIL),
    ]
    text = html_report(_validation(), {EVIL: pictures})
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
    assert "fp16 (culprit)" not in page.text
    assert "failed (culprit)" in page.text
    assert "logits, max relative 0.125 (≤ 0.01)" in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_of_the_report_is_beyond_the_screen(width, tmp_path):
    image = Image.new("RGB", (480, 300), "grey")
    file = io.BytesIO()
    image.save(file, "PNG")
    drawn = Drawn(
        "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), ("tench, 62.0%",)
    )
    page_file = tmp_path / "report.html"
    page_file.write_text(html_report(_validation(), {"fp16": [Picture("a.jpg", drawn, drawn)]}))
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text))
        page.goto(page_file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        beyond = page.evaluate(
            "[...document.querySelectorAll('.wide, html')]"
            ".filter(e => e.scrollWidth > e.clientWidth).map(e => e.outerHTML.slice(0, 200))"
        )
        shown = page.inner_text("table.stages")
        page.screenshot(path=tmp_path / "report.png", full_page=True)
        browser.close()
    assert beyond == []
    assert errors == []
    assert "failed (culprit)" in shown


def test_the_waterfall_goes_from_the_figure_before_to_its_own():
    drawn = waterfall(_validation())
    first, second = drawn.bars
    assert second.left == pytest.approx(second.end)
    assert second.left + second.width == pytest.approx(first.end)
    assert second.text == "91.25 (-6.25)"
    assert 0 <= second.end < first.end <= 100


def test_a_report_without_a_judged_image_says_so():
    stages = tuple(
        stage.model_copy(update={"scores": {}, "step": None, "total": None, "step_checks": ()})
        for stage in _validation().stages
    )
    page = _parsed(html_report(_validation(stages=stages, images=0), {}))
    assert "No image could be judged" in page.text


def test_a_validation_survives_json():
    found = _validation()
    assert Validation.model_validate(json.loads(found.model_dump_json())) == found
    agreement = found.stage("fp16").step
    assert agreement is not None
    assert Agreement.model_validate_json(agreement.model_dump_json()) == agreement


def test_a_name_that_is_not_utf_8_is_escaped_in_every_record():
    name = "caf\udce9\n.jpg"
    found = _validation(
        reason=name, commands=(name,), hardware={name: name}, unjudged=(_unjudged(name),)
    )
    text = found.model_dump_json()
    assert Validation.model_validate_json(text) == found
    assert found.unjudged[0].image == r"caf\udce9\n.jpg"
    html_report(found, {}).encode()


def _unjudged(name: str) -> Unjudged:
    return Unjudged(image=name, stage="decoding", reason=name)


def test_a_package_that_average_precision_needs_is_missed_before_any_work(
    artifact_t, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(MissingDependency, match="pycocotools is not installed"):
        validate(artifact_t.directory, checkpoint="nowhere.pth", dataset="coco", data=tmp_path)
