"""`container`: what the image of our Dockerfile runs; of no use outside one, so not in --help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..exit_codes import command
from ..types import Precision
from .app import app
from .options import Debug

container = typer.Typer(help="What the image of the Dockerfile runs.", no_args_is_help=True)
app.add_typer(container, name="container", hidden=True)

Exports = Annotated[Path, typer.Option("--exports", envvar="DFVT_EXPORTS")]
State = Annotated[Path, typer.Option("--state", envvar="DFVT_STATE")]
Models = Annotated[Path, typer.Option("--repository", envvar="DFVT_REPOSITORY")]
Backend = Annotated[
    Literal["tensorrt", "onnxruntime"], typer.Option("--backend", envvar="DFVT_BACKEND")
]
PrecisionChoice = Annotated[
    Precision | None,
    typer.Option("--precision", envvar="DFVT_PRECISION", help="fp16; onnxruntime: fp32."),
]
Names = Annotated[
    str, typer.Option("--models", envvar="DFVT_MODELS", help="Separated by commas; all of them.")
]
MaxBatchSize = Annotated[int | None, typer.Option("--max-batch-size", envvar="DFVT_MAX_BATCH_SIZE")]

_EXPORTS, _STATE, _MODELS = Path("/exports"), Path("/var/lib/dfvt-deploy"), Path("/models")


@container.command()
def start(
    exports: Exports = _EXPORTS,
    state: State = _STATE,
    repository: Models = _MODELS,
    backend: Backend = "tensorrt",
    precision: PrecisionChoice = None,
    models: Names = "",
    max_batch_size: MaxBatchSize = None,
    host: Annotated[str, typer.Option("--host", envvar="DFVT_HOST")] = "0.0.0.0",
    http_port: Annotated[int, typer.Option("--http-port")] = 8000,
    grpc_port: Annotated[int, typer.Option("--grpc-port")] = 8001,
    metrics_port: Annotated[int, typer.Option("--metrics-port")] = 8002,
    timeout: Annotated[float, typer.Option("--timeout", envvar="DFVT_TIMEOUT")] = 600,
    debug: Debug = False,
) -> None:
    """Serve the mounted repository, or one made of the exports for the GPU found here."""
    with command(debug):
        from ..printing import print_urls
        from ..serving import container as library
        from ..serving.server import Ports, serve, stopped_by_sigterm

        options = library.ContainerOptions(
            exports, state, backend, precision, tuple(library.listed(models)), max_batch_size
        )
        with stopped_by_sigterm():
            served = library.repository_to_serve(options, repository)
            ports = Ports(http_port, grpc_port, metrics_port)
            with serve(served, host=host, ports=ports, show_log=True, timeout=timeout) as server:
                print_urls(server.urls(), as_json=False)
                server.wait()


@container.command()
def prepare(
    exports: Exports = _EXPORTS,
    state: State = _STATE,
    repository: Models = _MODELS,
    backend: Backend = "tensorrt",
    precision: PrecisionChoice = None,
    models: Names = "",
    max_batch_size: MaxBatchSize = None,
    debug: Debug = False,
) -> None:
    """Add a version of the exports to the mounted repository, to be served read-only later."""
    with command(debug):
        from ..printing import print_populated
        from ..serving import container as library

        options = library.ContainerOptions(
            exports, state, backend, precision, tuple(library.listed(models)), max_batch_size
        )
        print_populated(library.prepare(options, repository), repository)


@container.command()
def health(
    url: Annotated[str, typer.Option("--url")] = "127.0.0.1:8000", debug: Debug = False
) -> None:
    """Ends with 0 when every model is loaded, else with 5."""
    with command(debug):
        from ..errors import ServerFailed
        from ..serving.container import is_ready

        if not is_ready(url):
            raise ServerFailed(f"the server at {url} is not ready")


@container.command()
def tensorrt_requirement(debug: Debug = False) -> None:
    """Print the pip requirement of the bindings for the image's TensorRT."""
    with command(debug):
        from ..serving.container import tensorrt_requirement as requirement

        print(requirement())
