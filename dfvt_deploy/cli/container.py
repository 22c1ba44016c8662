"""`container`: the commands that the image of the Dockerfile runs; `--help` does not list them."""

import typer

from ..serving.options import (
    HealthOptions,
    PrepareOptions,
    RequirementOptions,
    ServeOptions,
    StartOptions,
)
from .app import app
from .output import print_json, print_result
from .parameters import add_command

container = typer.Typer(help="What the image of the Dockerfile runs.", no_args_is_help=True)
app.add_typer(container, name="container", hidden=True)


@add_command(StartOptions, to=container)
def start(options: StartOptions, as_json: bool) -> None:
    """Serve the mounted repository, or one made of the exports for the GPU found here."""
    from ..serving.container import repository_to_serve
    from ..serving.process import stopped_by_sigterm
    from ..serving.server import TritonServer
    from .serve import print_urls

    with stopped_by_sigterm():
        served = ServeOptions(
            repository=repository_to_serve(options),
            host=options.host,
            http_port=options.http_port,
            grpc_port=options.grpc_port,
            metrics_port=options.metrics_port,
            timeout=options.timeout,
            trace_url=options.trace_url,
            trace_every=options.trace_every,
        )
        with TritonServer(served, show_log=True) as server:
            print_urls(server.urls(), as_json)
            server.wait()


@add_command(PrepareOptions, to=container)
def prepare(options: PrepareOptions, as_json: bool) -> None:
    """Add a version of the exports to the mounted repository, to be served read-only later."""
    from ..serving.container import prepare as prepare_repository
    from .populate import print_populated

    print_populated(prepare_repository(options, options.repository), options.repository, as_json)


@add_command(HealthOptions, to=container)
def health(options: HealthOptions, as_json: bool) -> None:
    """End with 0 when every model answers a request, else with 5."""
    from ..serving.container import check_health, served_repository

    models = check_health(options.url, served_repository(options))
    if as_json:
        print_json({"models": models})


@add_command(RequirementOptions, to=container)
def tensorrt_requirement(_options: RequirementOptions, as_json: bool) -> None:
    """Print the pip requirement of the bindings for the image's TensorRT."""
    from ..serving.container import tensorrt_requirement as requirement

    (print_json if as_json else print_result)(requirement())
