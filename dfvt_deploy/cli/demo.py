import signal

from ..demo_page.options import DemoOptions
from .output import browser, print_json, print_result
from .parameters import add_command


@add_command(DemoOptions)
def demo(options: DemoOptions) -> None:
    """Serve a web page that tries the models of a running Triton server, until interrupted.

    Example: `dfvt-deploy demo --url 127.0.0.1:8000`
    """
    from ..demo_page.server import demo as serve_page
    from ..serving.process import stopped_by_sigterm

    with stopped_by_sigterm(), serve_page(options) as address:
        print_json({"page": address, "server": options.url})
        text = f"{address} tries the models of {options.url}; Ctrl-C ends it"
        print_result(text, browser(address))
        while True:
            signal.pause()
