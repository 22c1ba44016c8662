"""The command line: parse, one call of the library, print.

Heavy packages are imported inside the commands, so that `--help` needs none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from . import __version__
from .errors import DfvtError
from .exit_codes import command
from .printing import (
    print_docker,
    print_export,
    print_findings,
    print_json,
    print_models,
    print_populated,
    print_prediction,
    print_quickstart,
    print_urls,
)
from .types import InputKind, Nms, NmsOperator, Precision, Task, Variant

if TYPE_CHECKING:
    from .artifact import Artifact

app = typer.Typer(
    name="dfvt-deploy",
    help="From a DFvT checkpoint to answers from NVIDIA Triton, checked at every step.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Choice = TypeVar("Choice", Variant, Task)
Result = TypeVar("Result")

Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, the rest on stderr.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
VariantOption = Annotated[str, typer.Option("--variant", help="t, s, b or all.")]
TaskOption = Annotated[
    str, typer.Option("--task", help="classification, detection, segmentation, all.")
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="A file, or 'published' for the authors' release. Untrained weights without it.",
    ),
]
OutputOption = Annotated[Path, typer.Option("--output", help="Folder of exported models.")]
RepositoryOption = Annotated[Path, typer.Option("--repository", help="Triton model repository.")]


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def models(json_: Json = False, debug: Debug = False) -> None:
    """Sizes of the nine models beside the published figures.

    Example: `dfvt-deploy models`
    """
    with command(debug):
        from .models.table import model_table
        from .progress import stage

        with stage("counting parameters and multiply-accumulates"):
            rows = model_table()
        if json_:
            return print_json([vars(row) for row in rows])
        print_models(rows)


@app.command()
def export(
    variant: VariantOption,
    task: TaskOption = Task.CLASSIFICATION.value,
    checkpoint: CheckpointOption = None,
    output: OutputOption = Path("exports"),
    name: Annotated[
        str | None, typer.Option("--name", help="Model name; dfvt_VARIANT_TASK by default.")
    ] = None,
    input_: Annotated[
        InputKind,
        typer.Option("--input", help="uint8 NHWC pixels, or normalised float32 NCHW."),
    ] = InputKind.UINT8,
    opset: Annotated[int, typer.Option("--opset", help="ONNX opset, 17 to 23.")] = 20,
    num_classes: Annotated[
        int | None,
        typer.Option("--num-classes", help="Must agree with the checkpoint; for none, chooses."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Text file, one class name a line.")
    ] = None,
    backbone_checkpoint: Annotated[
        str | None,
        typer.Option(
            "--backbone-checkpoint",
            help="Classification checkpoint for a dense model's backbone; its head is untrained.",
        ),
    ] = None,
    static: Annotated[
        str | None,
        typer.Option("--static", help="Fixed HxW of a dense model, as 512x512; dynamic without."),
    ] = None,
    logits: Annotated[
        bool, typer.Option("--logits", help="Segmentation: the logits as a second output.")
    ] = False,
    nms: Annotated[
        Nms | None,
        typer.Option("--nms", help="Detection: hard, or soft, which is published for b."),
    ] = None,
    nms_operator: Annotated[
        NmsOperator,
        typer.Option("--nms-op", help="Detection: NMS as loops, or as the ONNX operator."),
    ] = NmsOperator.LOOP,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """PyTorch to ONNX, simplified and checked against PyTorch.

    Writes `exports/NAME/model.onnx` and `manifest.json`. A failure leaves earlier files as they
    were.

    Example: `dfvt-deploy export --variant s --checkpoint DFvT_S_7829.pth`
    """
    with command(debug):
        from .convert.export import export as export_model
        from .errors import BadInput

        chosen = [(v, t) for t in _tasks(task) for v in _variants(variant)]
        if len(chosen) > 1 and (name or {checkpoint, backbone_checkpoint} - {None, "published"}):
            raise BadInput("several models take neither --name nor a checkpoint file")

        def export_one(each_variant: Variant, each_task: Task) -> Artifact:
            artifact = export_model(
                each_variant,
                each_task,
                checkpoint=checkpoint,
                output=output,
                name=name,
                input_kind=input_,
                opset=opset,
                num_classes=num_classes,
                labels=labels,
                backbone_checkpoint=backbone_checkpoint,
                static=_canvas(static),
                logits=logits,
                nms=nms,
                nms_operator=nms_operator,
            )
            if not json_:
                print_export(artifact)
            return artifact

        with _each(chosen, export_one) as done:
            if json_:
                documents = [artifact.manifest.model_dump(mode="json") for artifact in done]
                print_json(documents if len(chosen) > 1 else documents[0])


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
        Literal["onnxruntime"], typer.Option("--backend", help="Of the network.")
    ] = "onnxruntime",
    precision: Annotated[Precision, typer.Option("--precision")] = Precision.FP32,
    version: Annotated[
        int | None, typer.Option("--version", help="Version number; the next one by default.")
    ] = None,
    device: Annotated[
        Literal["cpu", "gpu"], typer.Option("--device", help="Where the network runs.")
    ] = "cpu",
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
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Add exported models to a Triton model repository, each as a new version.

    Example: `dfvt-deploy populate dfvt_s_classification --device gpu`
    """
    with command(debug):
        from .artifact import exported_models
        from .errors import BadInput
        from .serving import repository as library
        from .serving.config import Placement
        from .tasks.images import ImageLimits

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
                version=version,
                options=options,
            )

        with _each([(folder,) for folder in folders], populate_one) as done:
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
        from .serving import server as library

        ports = library.Ports(http_port, grpc_port, metrics_port)
        ports = library.EPHEMERAL if ephemeral_ports else ports
        if docker:
            from .serving.docker import docker_command, run

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
        from .data import read_labels
        from .serving import drawing
        from .serving.client import predict as ask

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


@app.command()
def doctor(json_: Json = False, debug: Debug = False) -> None:
    """What this machine has and lacks for each command, and how to get it.

    Ends with 3 if something that is not optional is missing.

    Example: `dfvt-deploy doctor`
    """
    with command(debug):
        from .checkup import doctor as examine

        findings = examine()
        if json_:
            print_json([vars(finding) for finding in findings])
        else:
            print_findings(findings)
        if any(not f.found and not f.optional for f in findings):
            raise typer.Exit(3)


@app.command()
def quickstart(
    variant: VariantOption = Variant.S.value,
    task: TaskOption = Task.CLASSIFICATION.value,
    checkpoint: CheckpointOption = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="An image of yours; a sample by default.")
    ] = None,
    output: OutputOption = Path("exports"),
    repository: RepositoryOption = Path("model_repository"),
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Export, populate, serve and predict for one model, over HTTP and gRPC.

    Example: `dfvt-deploy quickstart --variant s`
    """
    with command(debug):
        from .walkthrough import SAMPLE_IMAGE
        from .walkthrough import quickstart as run

        result = run(
            _choice(Variant, "variant", variant, more=()),
            _choice(Task, "task", task, more=()),
            checkpoint=checkpoint,
            image=image or SAMPLE_IMAGE,
            output=output,
            repository=repository,
        )
        print_quickstart(result, json_)


@contextmanager
def _each(items: Sequence[tuple[Any, ...]], call: Callable[..., Result]) -> Iterator[list[Result]]:
    """Call for each item and give what was done to the block; what failed is raised after it.

    One item's error is raised as it is.
    """
    from .errors import StageFailed

    done: list[Result] = []
    failed: list[str] = []
    for item in items:
        try:
            done.append(call(*item))
        except DfvtError as error:
            if len(items) == 1:
                raise
            failed.append(f"{' '.join(map(str, item))}: {error}")
    yield done
    if failed:
        raise StageFailed(f"{len(failed)} of {len(items)} failed: " + "; ".join(failed))


def _variants(value: str) -> list[Variant]:
    return list(Variant) if value == "all" else [_choice(Variant, "variant", value)]


def _tasks(value: str) -> list[Task]:
    return list(Task) if value == "all" else [_choice(Task, "task", value)]


def _canvas(value: str | None) -> tuple[int, int] | None:
    """Height and width of `HxW`."""
    from .errors import BadInput

    if value is None:
        return None
    sides = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", value)
    if sides is None:
        raise BadInput(f"--static {value!r} is not HxW, as 512x512")
    return int(sides[1]), int(sides[2])


def _choice(kind: type[Choice], what: str, value: str, more: tuple[str, ...] = ("all",)) -> Choice:
    from .errors import BadInput

    try:
        return kind(value)
    except ValueError:
        choices = ", ".join(kind) + "".join(f", {choice}" for choice in more)
        raise BadInput(f"{what} {value!r} is none of {choices}") from None


def main() -> None:
    """Entry point of `dfvt-deploy`."""
    app()


if __name__ == "__main__":
    main()
