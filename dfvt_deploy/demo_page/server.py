"""`demo`: the page's web server, which sends images on to Triton and stores nothing."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import BadInput, DfvtError, StageFailed
from ..options import from_fields
from ..runners.triton import is_loopback
from ..tasks.images import DEFAULT_LIMITS
from .answers import answer, heat_map, served_models
from .options import DemoOptions

_PAGE = Path(__file__).parent / "page"

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}

#: The page loads nothing from elsewhere; maps come as data URLs, the user's image as a blob.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

#: Images that are worked on at once; others wait.
_AT_ONCE = 4


@from_fields(DemoOptions)
@contextmanager
def demo(options: DemoOptions) -> Iterator[str]:
    """Serve the page while the block runs, and give its address; StageFailed where it is taken."""
    try:
        server = _Server(options)
    except OSError as error:
        where = f"{options.host}:{options.port}"
        raise StageFailed(f"the page cannot be at {where}: {error}; give another --port") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{options.host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, options: DemoOptions) -> None:
        super().__init__((options.host, options.port), _Handler)
        self.options = options
        self.slots = threading.BoundedSemaphore(_AT_ONCE)


class _Handler(BaseHTTPRequestHandler):
    timeout = 60  # of a connection that sends nothing
    server: _Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if not self._is_ours():
            return
        if path == "/models":
            return self._answer(lambda: served_models(self.server.options.url))
        if path not in _FILES:
            return self._send(404, {"error": f"there is no {path}"})
        name, kind = _FILES[path]
        self._send_bytes(200, (_PAGE / name).read_bytes(), kind)

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        sides = parse_qs(url.query).get("side", [])
        if not self._is_ours() or (data := self._body()) is None:
            return
        options = self.server.options
        with self.server.slots:
            if url.path == "/answer" and 1 <= len(sides) <= 2:
                self._answer(lambda: answer(options.url, sides, data, options.timeout))
            elif url.path == "/heat" and len(sides) == 1:
                self._answer(lambda: heat_map(options.url, sides[0], data, options.timeout))
            else:
                self._send(404, {"error": f"there is no {self.path}"})

    def _is_ours(self) -> bool:
        """Refuse pages of other sites, and names that another site gave this address."""
        address, port = self.connection.getsockname()
        names = {self.server.options.host, address, *["localhost"] * is_loopback(address)}
        hosts = sorted(f"{name}:{port}" for name in names)
        host, origin = self.headers["Host"], self.headers["Origin"]
        if host in hosts and origin in (None, f"http://{host}"):
            return True
        self._send(403, {"error": f"this page is at {', '.join(hosts)} only"})
        return False

    def _body(self) -> bytes | None:
        length = self.headers["Content-Length"] or ""
        if not length.isdecimal():
            self._send(411, {"error": "the length of the image is missing"})
        elif int(length) > DEFAULT_LIMITS.max_bytes:
            limit = f"{DEFAULT_LIMITS.max_bytes:,}"
            self._send(413, {"error": f"image has {int(length):,} bytes, the limit is {limit}"})
        else:
            return self.rfile.read(int(length))
        return None

    def _answer(self, make: Any) -> None:
        try:
            self._send(200, make())
        except DfvtError as error:
            self._send(400 if isinstance(error, BadInput) else 502, {"error": str(error)})

    def _send(self, status: int, document: Any) -> None:
        self._send_bytes(status, json.dumps(document).encode(), "application/json")

    def _send_bytes(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        with suppress(ConnectionError):  # The user has left.
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_words: Any) -> None:
        """Nothing about who looked at what is kept."""
