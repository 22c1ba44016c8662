"""`serve`: a Triton server on a model repository."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..serving.options import ServeOptions
from .output import print_json, print_line
from .parameters import add_command


@add_command(ServeOptions)
def serve(options: ServeOptions, as_json: bool) -> None:
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
        print_docker(words, as_json)
        return run(words)
    with stopped_by_sigterm(), TritonServer(options, log_directory=Path.cwd()) as server:
        print_urls(server.urls(), as_json)
        server.wait()


def print_urls(urls: Mapping[str, str | list[str]], as_json: bool) -> None:
    if as_json:
        print_json(urls)
    else:
        for what, value in urls.items():
            print_line(f"{what:8} {value if isinstance(value, str) else ', '.join(value)}")
    sys.stdout.flush()


def print_docker(command: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json({"command": list(command)})
    else:
        print_line(shlex.join(command))
    sys.stdout.flush()
