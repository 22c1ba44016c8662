"""`container`: the commands that the image of the Dockerfile runs; `--help` does not list them."""

import typer

from ..serving import options as serving
from ..serving.options import ServeOptions
from .app import app
from .output import print_json, print_result
from .parameters import add_command

container = typer.Typer(help="What the image of the Dockerfile runs.", no_args_is_help=True)
app.add_typer(container, name="container", hidden=True)


@add_command(serving.StartOptions, to=container)
def start(options: serving.StartOptions) -> None:
    """Serve the mounted repository, or one made of the exports for the GPU found here."""
    from ..serving.container import repository_to_serve
    from ..serving.process import stopped_by_sigterm
    from ..serving.server import TritonServer
    from .serve import print_urls

    with stopped_by_sigterm():
        ports = ("http_port", "grpc_port", "metrics_port")
        same = ("host", *ports, "timeout", "trace_url", "trace_every")
        chosen = {name: getattr(options, name) for name in same}
        served = ServeOptions(repository=repository_to_serve(options), **chosen)
        with TritonServer(served, show_log=True) as server:
            print_urls(server.urls())
            server.wait()


@add_command(serving.PrepareOptions, to=container)
def prepare(options: serving.PrepareOptions) -> None:
    """Add a version of the exports to the mounted repository, to be served read-only later."""
    from ..serving.container import prepare as prepare_repository
    from .populate import print_populated

    done = prepare_repository(options, options.repository)
    print_populated(done, options.repository, options.exports)


@add_command(serving.HealthOptions, to=container)
def health(options: serving.HealthOptions) -> None:
    """End with 0 when every model answers a request, else with 5."""
    from ..serving.container import check_health, served_repository

    print_json({"models": check_health(options.url, served_repository(options))})


@add_command(serving.RequirementOptions, to=container)
def tensorrt_requirement(_options: serving.RequirementOptions) -> None:
    """Print the pip requirement of the bindings for the image's TensorRT."""
    from ..serving.container import tensorrt_requirement as requirement

    print_json(requirement())
    print_result(requirement())
