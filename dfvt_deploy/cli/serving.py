"""`populate`, `serve` and `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..exit_codes import command
from ..printing import print_docker, print_json, print_populated, print_prediction, print_urls
from ..types import Flavor, Precision
from .app import app
from .options import Debug, Json, RepositoryOption, each


@app.command()
def populate(
    model: Annotated[
        list[str] | None, typer.Argument(help="Names under --exports; all of them by default.")
    ] = None,
    exports: Annotated[Path, typer.Option("--exports", help="Folder of exported models.")] = Path(
        "exports"
    ),
    repository: RepositoryOption = Path("model_repository"),
    backend: Annotated[
        Literal["onnxruntime", "tensorrt"], typer.Option("--backend", help="Of the network.")
    ] = "onnxruntime",
    precision: Annotated[Precision, typer.Option("--precision")] = Precision.FP32,
    flavor: Annotated[
        Flavor, typer.Option("--flavor", help="Whose plans; only the embedded server loads rtx.")
    ] = Flavor.TENSORRT,
    version: Annotated[
        int | None, typer.Option("--version", help="Version number; the next one by default.")
    ] = None,
    device: Annotated[
        Literal["cpu", "gpu"] | None,
        typer.Option("--device", help="Where the network runs: cpu, with tensorrt always gpu."),
    ] = None,
    require_validated: Annotated[
        bool,
        typer.Option("--require-validated", help="Only a file that `validate` passed; else 4."),
    ] = False,
    max_batch_size: Annotated[
        int | None,
        typer.Option("--max-batch-size", help="64 by default, 4 for dense tasks."),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", help="Answers per image.")] = 5,
    max_bytes: Annotated[
        int, typer.Option("--max-bytes", help="Largest encoded image the server takes.")
    ] = 20 * 2**20,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", help="Most pixels of an image, checked undecoded.")
    ] = 50_000_000,
    instances: Annotated[int, typer.Option("--instances", help="Of the network.")] = 1,
    preprocess_instances: Annotated[
        int | None,
        typer.Option("--preprocess-instances", help="Decoding processes; 2, on a GPU 4."),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", help="Of a network instance on the CPU; 0 for all cores.")
    ] = 0,
    queue_delay_us: Annotated[
        int, typer.Option("--queue-delay-us", help="How long the network waits to fill a batch.")
    ] = 0,
    cuda_graphs: Annotated[
        bool,
        typer.Option("--cuda-graphs", help="Of the TensorRT network, if its size is fixed."),
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Add exported models to a Triton model repository, each as a new version.

    Example: `dfvt-deploy populate dfvt_s_classification --backend tensorrt --precision fp16`
    """
    with command(debug):
        from ..artifact import exported_models
        from ..errors import BadInput
        from ..serving import repository as library
        from ..serving.config import Placement
        from ..tasks.images import ImageLimits

        if backend == "tensorrt" and device == "cpu":
            raise BadInput("--device cpu: --backend tensorrt runs on a GPU; omit one of the two")
        device = device or ("gpu" if backend == "tensorrt" else "cpu")
        try:
            options = library.PopulateOptions(
                max_batch_size=max_batch_size,
                k=top_k,
                limits=ImageLimits(max_bytes, max_pixels),
                placement=Placement(
                    device=device,
                    network_instances=instances,
                    preprocess_instances=(
                        (4 if device == "gpu" else 2)
                        if preprocess_instances is None
                        else preprocess_instances
                    ),
                    threads=threads,
                    queue_delay_us=queue_delay_us,
                    cuda_graphs=cuda_graphs,
                ),
            )
        except ValueError as error:
            raise BadInput(str(error)) from error
        folders = [exports / name for name in model] if model else exported_models(exports)

        def populate_one(folder: Path) -> library.PopulatedModel:
            return library.populate(
                folder,
                repository=repository,
                backend=backend,
                precision=precision,
                flavor=flavor,
                version=version,
                options=options,
                require_validated=require_validated,
            )

        with each([(folder,) for folder in folders], populate_one) as done:
            if json_:
                print_json([{**vars(p), "repository": str(p.repository)} for p in done])
            else:
                print_populated(done, repository)


@app.command()
def serve(
    repository: RepositoryOption = Path("model_repository"),
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option("--http-port")] = 8000,
    grpc_port: Annotated[int, typer.Option("--grpc-port")] = 8001,
    metrics_port: Annotated[int, typer.Option("--metrics-port")] = 8002,
    ephemeral_ports: Annotated[
        bool, typer.Option("--ephemeral-ports", help="Take any free ports.")
    ] = False,
    log_file: Annotated[
        Path | None,
        typer.Option("--log-file", help="The server's log; tritonserver-HTTPPORT.log by default."),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to load the models.")] = 300,
    expose_embedded: Annotated[
        bool,
        typer.Option(
            "--expose-embedded",
            help="Let the embedded server, which lacks security fixes, listen on --host.",
        ),
    ] = False,
    docker: Annotated[
        bool,
        typer.Option("--docker", help="NVIDIA's container: print its command, run it if possible."),
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """A Triton server on a model repository, until interrupted.

    Takes the tritonserver on PATH, else the one of nvidia-pytriton. SIGTERM ends it with exit
    code 0, Ctrl-C with 130, its own end with 5.

    Example: `dfvt-deploy serve --repository model_repository`
    """
    with command(debug):
        from ..serving import server as library

        ports = library.Ports(http_port, grpc_port, metrics_port)
        ports = library.EPHEMERAL if ephemeral_ports else ports
        if docker:
            from ..serving.docker import docker_command, run

            words = docker_command(repository, host, ports)
            print_docker(words, json_)
            return run(words)
        with (
            library.stopped_by_sigterm(),
            library.serve(
                repository,
                host=host,
                ports=ports,
                log_file=log_file,
                log_directory=Path.cwd(),
                expose_embedded=expose_embedded,
                timeout=timeout,
            ) as server,
        ):
            print_urls(server.urls(), json_)
            server.wait()


@app.command()
def predict(
    image: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files.")],
    model: Annotated[str, typer.Option("--model", help="Model name on the server.")],
    protocol: Annotated[Literal["grpc", "http"], typer.Option("--protocol")] = "grpc",
    url: Annotated[
        str | None, typer.Option("--url", help="host:port; 127.0.0.1:8001, for http :8000.")
    ] = None,
    model_version: Annotated[
        str, typer.Option("--model-version", help="The newest by default.")
    ] = "",
    save: Annotated[
        Path | None, typer.Option("--save", help="Folder for images with the answers drawn in.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Class names for a class map; ADE20K's by default."),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds for one request.")] = 60,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Ask a running Triton server about images.

    Example: `dfvt-deploy predict cat.jpg --model dfvt_s_classification --protocol http`
    """
    with command(debug):
        from ..data import read_labels
        from ..serving import drawing
        from ..serving.client import predict as ask

        names = read_labels(labels) if labels else None
        documents: list[dict[str, Any]] = []
        taken = {path.resolve() for path in image}
        answers = ask(
            image, model, url=url, protocol=protocol, version=model_version, timeout=timeout
        )
        try:
            for answer in answers:
                documents.append(answer.as_json())
                if save:
                    drawn = drawing.draw(answer, names)
                    path = drawing.save(drawn, answer.image, save, taken)
                    documents[-1]["saved"] = str(path)
                if not json_:
                    print_prediction(answer, names, documents[-1].get("saved"))
        finally:  # the answers before a failure are not lost
            if json_:
                print_json(documents)
