"""The demo's page in headless Chromium on a real Triton server, and what its web server refuses."""

import http.client
import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from dfvt_deploy.demo_page import server
from dfvt_deploy.demo_page.answers import _mark_differences, _shown, answer, served_models
from dfvt_deploy.demo_page.server import demo
from dfvt_deploy.serving.repository import populate
from dfvt_deploy.serving.server import serve
from dfvt_deploy.tasks import detection

from .fixtures import encoded, json_document, photograph

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"
)


@pytest.fixture(scope="module")
def triton(digits_artifact, shapes_artifact, tmp_path_factory):
    repository = tmp_path_factory.mktemp("demo") / "models"
    for artifact in (digits_artifact, shapes_artifact):
        populate(artifact.directory, repository=repository)
    with serve(repository) as running:
        yield running


@pytest.fixture(scope="module")
def address(triton):
    with demo(url=triton.http_url, port=0) as page:
        yield page


def detections(*rows):
    """The served answers for an image of 100x80 pixels: label, score and box of each row."""
    answers = {
        "boxes": np.zeros((100, 4), np.float32),
        "scores": np.zeros(100, np.float32),
        "class_ids": np.full(100, -1, np.int32),
        "labels": np.full(100, b"", object),
        "masks": np.full(100, b"", object),
        "num_detections": np.array([len(rows)], np.int32),
    }
    for i, (label, score, box) in enumerate(rows):
        mask = detection.paste_mask(np.ones((28, 28)), np.float32(box), (80, 100))
        answers["boxes"][i], answers["scores"][i], answers["class_ids"][i] = box, score, 1
        answers["labels"][i], answers["masks"][i] = label.encode(), json.dumps(mask).encode()
    return answers


def test_rows_that_the_other_side_lacks_are_marked():
    raw = [
        detections(("cat", 0.9, (10, 10, 50, 60)), ("dog", 0.8, (60, 20, 90, 70))),
        detections(("cat", 0.7, (12, 10, 50, 60)), ("cat", 0.6, (60, 20, 90, 70))),
    ]
    found = [_shown(answers) for answers in raw]
    _mark_differences(found, raw)
    assert [[row["differs"] for row in side["rows"]] for side in found] == [[False, True]] * 2
    assert found[0]["rows"][0]["mask"]["size"] == [80, 100]


def request(address, path="/", body=None, **headers):
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("POST" if body is not None else "GET", path, body, headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply, content


def test_the_page_answers_its_own_user_only(address):
    image = encoded(photograph(50, 40), "PNG")
    reply, _ = request(address)
    assert reply.status == 200
    assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    assert reply.headers["Access-Control-Allow-Origin"] is None
    assert request(address, Host="evil.example")[0].status == 403
    asked = "/answer?side=digits:1"
    assert request(address, asked, image, Origin="http://evil.example")[0].status == 403
    assert request(address, asked, image, Origin=address)[0].status == 200
    assert request(address, "/../server.py")[0].status == 404
    too_long = {"Content-Length": str(2**30)}
    reply, content = request(address, asked, b"", **too_long)
    assert reply.status == 413
    assert "the limit is 20,971,520" in json.loads(content)["error"]


def test_a_page_on_all_addresses_is_known_by_the_one_that_is_asked():
    with demo(url="127.0.0.1:9", host="0.0.0.0", port=0) as page:
        address = page.replace("0.0.0.0", "127.0.0.1")
        assert request(address)[0].status == 200
        assert request(address, Host="evil.example")[0].status == 403


def test_two_users_at_once_and_wrong_files(address):
    asked = "/answer?side=digits:1&side=digits:1"
    images = [encoded(photograph(60, 60, seed=i), "PNG") for i in range(2)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda i: request(address, asked, images[i % 2]), range(8)))
    assert {reply.status for reply, _ in replies} == {200}
    answers = [[row["value"] for row in json.loads(content)[0]["rows"]] for _, content in replies]
    for own in range(2):  # a batch of several requests rounds otherwise
        np.testing.assert_allclose(answers[own::2], [answers[own]] * 4, atol=1e-4)
    assert not np.allclose(*answers[:2], atol=1e-3)
    large = Image.new("RGB", (8000, 6500))  # 52 megapixels, 50 are allowed
    for data, text in ((b"no image", "not one of JPEG, PNG, WEBP"), (encoded(large), "50,000,000")):
        reply, content = request(address, asked, data)
        assert reply.status == 400
        assert text in json.loads(content)["error"]
    assert request(address, "/answer?side=none:1", images[0])[0].status in (400, 502)


@contextmanager
def opened(address, **device):
    """A page in Chromium, and the list of its requests to elsewhere and of all errors."""
    from playwright.sync_api import sync_playwright

    wrong = []
    with sync_playwright() as tools:
        browser = tools.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        page = browser.new_page(**device)
        page.set_default_timeout(120_000)
        inside = (address, "data:", f"blob:{address}")
        page.on("request", lambda r: r.url.startswith(inside) or wrong.append(r.url))
        page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        yield page, wrong
        browser.close()


@contextmanager
def answered(page, text="Answered."):
    """Waits for the answer to what is done inside, not for the one before."""
    page.evaluate("say('')")
    yield
    page.locator("#status", has_text=text).wait_for()


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_by_keyboard(address, digits, shapes, width):
    digit = next((digits.heldout / "7").iterdir())
    with opened(address, viewport={"width": width, "height": 800}) as (page, wrong):
        page.wait_for_selector("#first option", state="attached")
        page.focus("#first")
        page.keyboard.type("digits")
        with answered(page):
            page.set_input_files("#file", digit)
        assert page.locator("li span").first.inner_text() == "7"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.focus("#heat")
        with answered(page, "Heat map of 7"):
            page.keyboard.press("Enter")
        page.focus("#second")
        with answered(page):
            page.keyboard.type("shapes")
        assert page.locator("section").count() == 2
        page.focus("#divider")
        before = page.evaluate("$('canvas').toDataURL()")
        page.keyboard.press("Home")
        assert page.evaluate("$('canvas').toDataURL()") != before
        assert wrong == []


@needs_chromium
def test_detections_a_camera_wrong_files_and_a_stopped_server(address, tmp_path):
    rows = _shown(detections(("cat", 0.9, (10, 10, 50, 60)), ("dog", 0.4, (60, 20, 90, 70))))
    side = {"side": "digits:1", "milliseconds": {"request": 3.0}, **rows}
    (tmp_path / "image.png").write_bytes(encoded(photograph(100, 80), "PNG"))
    (tmp_path / "text.png").write_text("no image")
    with opened(address) as (page, wrong):
        page.wait_for_selector("#first option", state="attached")
        page.select_option("#first", "digits:1")
        page.route("**/answer*", lambda route: route.fulfill(json=[side]))
        with answered(page):
            page.set_input_files("#file", tmp_path / "image.png")
        pixel = "[...$('canvas').getContext('2d').getImageData(200, 250, 1, 1).data]"
        drawn = page.evaluate(pixel)
        assert page.locator("li").count() == 2
        page.focus("#score")
        page.keyboard.press("End")
        assert page.locator("li").count() == 0
        assert page.evaluate(pixel) != drawn
        page.unroute("**/answer*")
        page.click("#camera")
        page.wait_for_selector("#video:not([hidden])")
        with answered(page):
            page.click("#camera")
        assert page.locator("li").count() == 5
        assert wrong == []
        with answered(page, "image is not one of"):
            page.set_input_files("#file", tmp_path / "text.png")
        with answered(page, "Heat map of"):  # of the image that is shown
            page.click("#heat")
        with page.expect_file_chooser() as chooser, answered(page, "image is not one of"):
            page.click("#file")
            chooser.value.set_files(tmp_path / "text.png")


@needs_chromium
def test_a_server_that_does_not_answer_is_named_until_it_does(triton, digits, monkeypatch):
    reason = "Triton at 127.0.0.1:9 does not answer"
    digit, other = sorted((digits.heldout / "7").iterdir())[:2]
    with demo(url="127.0.0.1:9", port=0) as address, opened(address) as (page, _):
        page.locator("#status", has_text=reason).wait_for()
        with answered(page, reason):
            page.set_input_files("#file", digit)
        monkeypatch.setattr(server, "served_models", lambda _: served_models(triton.http_url))
        monkeypatch.setattr(server, "answer", lambda _, *asked: answer(triton.http_url, *asked))
        with answered(page):
            page.set_input_files("#file", other)
        assert page.locator("li span").first.inner_text() == "7"


def test_the_command_says_where_the_page_is_until_it_is_stopped(triton):
    command = [sys.executable, "-m", "dfvt_deploy", "demo", "--url", triton.http_url]
    page = subprocess.Popen([*command, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True)
    try:
        printed = "".join(iter(page.stdout.readline, "}\n")) + "}"
        found = json_document("demo", printed)
        assert found["server"] == triton.http_url
        reply, _ = request(found["page"])
        assert reply.status == 200
    finally:
        page.send_signal(signal.SIGTERM)
        page.communicate(timeout=30)
    assert page.returncode == 0
