"""The download of the authors' checkpoints, against a local server."""

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import patch

import pytest

from dfvt_deploy.errors import BadInput, StageFailed
from dfvt_deploy.models.published import published_checkpoint
from dfvt_deploy.types import Task, Variant

CONTENT = bytes(range(256)) * 2000


class Release:
    """What the local server offers, and what it was asked."""

    def __init__(self):
        self.content = CONTENT
        self.cut_at = None
        self.status = 200
        self.ranges = []


@pytest.fixture
def release():
    state = Release()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            etag = f'"{hashlib.md5(state.content).hexdigest()}"'
            if state.status != 200:
                return self.send_error(state.status)
            start = 0
            if wanted and self.headers.get("If-Range") == etag:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", etag)
            self.end_headers()
            self.wfile.write(body[: state.cut_at])

        def log_message(self, *_args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()


def _download(release, cache):
    places = {"DFVT_DEPLOY_CACHE": str(cache), "DFVT_DEPLOY_RELEASE_URL": release.url}
    with patch.dict(os.environ, places):
        return published_checkpoint(Task.CLASSIFICATION, Variant.S)


def test_downloads_once_and_records_the_hash(release, tmp_path):
    path = _download(release, tmp_path)
    assert path.read_bytes() == CONTENT
    assert path.name == "DFvT_S_7829.pth"
    assert hashlib.sha256(CONTENT).hexdigest() in (tmp_path / f"{path.name}.json").read_text()
    assert _download(release, tmp_path) == path
    assert release.ranges == [None]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]


def test_an_interrupted_download_is_resumed(release, tmp_path):
    release.cut_at = 100_000
    with pytest.raises(StageFailed, match="100,000 of 512,000 bytes arrived"):
        _download(release, tmp_path)
    assert not (tmp_path / "DFvT_S_7829.pth").exists()
    release.cut_at = None
    assert _download(release, tmp_path).read_bytes() == CONTENT
    assert release.ranges == [None, "bytes=100000-"]


def test_a_file_replaced_meanwhile_is_not_spliced(release, tmp_path):
    release.cut_at = 100_000
    with pytest.raises(StageFailed):
        _download(release, tmp_path)
    release.cut_at, release.content = None, CONTENT[::-1]
    assert _download(release, tmp_path).read_bytes() == CONTENT[::-1]


def test_another_hash_is_refused_in_the_cache(release, tmp_path):
    path = _download(release, tmp_path)
    path.write_bytes(b"changed")
    with pytest.raises(StageFailed, match="it was changed since"):
        _download(release, tmp_path)


def test_another_hash_is_refused_from_the_server(release, tmp_path):
    _download(release, tmp_path).unlink()
    release.content = CONTENT[::-1]
    with pytest.raises(StageFailed, match="refused"):
        _download(release, tmp_path)
    assert not (tmp_path / "DFvT_S_7829.pth").exists()


def test_errors_of_the_server_and_the_network_are_clear(release, tmp_path):
    release.status = 404
    with pytest.raises(StageFailed, match="answered 404"):
        _download(release, tmp_path)
    release.status = 416
    (tmp_path / "DFvT_S_7829.pth.part").write_bytes(CONTENT[:100])
    (tmp_path / "DFvT_S_7829.pth.part.validator").write_text('"etag"')
    with pytest.raises(StageFailed, match="answered 416"):
        _download(release, tmp_path)
    assert release.ranges[-2:] == ["bytes=100-", None], "asked once more from the start, then never"
    release.url = "http://127.0.0.1:9"
    with pytest.raises(StageFailed, match="could not be downloaded"):
        _download(release, tmp_path)


@pytest.mark.parametrize("text", ["{", '["sha256"]', '{"sha": 1}', '{"a":' * 10**5, "\udcff"])
def test_a_damaged_record_is_named(release, tmp_path, text):
    path = _download(release, tmp_path)
    record = path.with_name(f"{path.name}.json")
    record.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(StageFailed, match=r"json is damaged \(.*delete it to accept"):
        _download(release, tmp_path)


def test_only_classification_was_published():
    with pytest.raises(BadInput, match="published no detection checkpoint"):
        published_checkpoint(Task.DETECTION, Variant.S)
