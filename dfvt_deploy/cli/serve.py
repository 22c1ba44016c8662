"""`serve`: a Triton server on a model repository."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from ..demo_page.options import DemoOptions
from ..serving.options import ServeOptions
from .output import print_json, print_line, print_result
from .parameters import add_command


@add_command(ServeOptions)
def serve(options: ServeOptions) -> None:
    """Run a Triton server on a model repository until it is interrupted.

    It is the tritonserver on PATH, else the one of nvidia-pytriton. When Triton or one of its
    Python processes ends, Triton is started again. SIGTERM ends the server with exit code 0,
    Ctrl-C with 130; if Triton ends too often, the exit code is 5.

    Example: `dfvt-deploy serve --repository model_repository`
    """
    from ..serving.process import stopped_by_sigterm
    from ..serving.server import TritonServer

    if options.docker:
        from ..serving.docker import docker_command, run

        words = docker_command(options.repository, options.host, options.ports, options.monitoring)
        print_json({"command": words})
        print_result(shlex.join(words))
        return run(words)
    with stopped_by_sigterm(), TritonServer(options, log_directory=Path.cwd()) as server:
        print_urls(server.urls())
        server.wait()


def print_urls(urls: Mapping[str, str | list[str]]) -> None:
    """Print where a server answers which models, and the command that shows them on a page."""
    print_json(urls)
    print_line(f"metrics at {urls['metrics']}, log in {urls['log']}")
    text = f"serving {', '.join(urls['models'])}: HTTP at {urls['http']}, gRPC at {urls['grpc']}"
    print_result(text, DemoOptions(url=str(urls["http"])).command_line())
