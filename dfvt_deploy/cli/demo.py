"""`demo`."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict

from ..demo_page.options import DemoOptions
from .output import print_json, print_line
from .parameters import add_command


@add_command(DemoOptions)
def demo(options: DemoOptions, as_json: bool) -> None:
    """Serve a web page that tries the models of a running Triton server, until interrupted.

    Example: `dfvt-deploy demo --url 127.0.0.1:8000`
    """
    from ..demo_page.server import demo as serve_page
    from ..serving.process import stopped_by_sigterm

    with stopped_by_sigterm(), serve_page(**asdict(options)) as address:
        if as_json:
            print_json({"page": address, "server": options.url})
        else:
            print_line(f"{address} tries the models of {options.url}; Ctrl-C ends it")
        sys.stdout.flush()
        while True:
            signal.pause()
