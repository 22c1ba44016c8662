"""The options of `populate`, `serve`, `predict` and of the image's own commands."""

from pathlib import Path
from typing import Literal

from ..errors import BadInput
from ..files import check_output_folder
from ..options import Options, argument, option
from ..types import Flavor, Precision, TritonProtocol
from .backend_names import BackendName
from .server_arguments import EPHEMERAL, MonitoringOptions, Ports

#: The defaults of `tasks.images.ImageLimits`, which would import Pillow here.
DEFAULT_MAX_BYTES = 20 * 2**20
DEFAULT_MAX_PIXELS = 50_000_000

#: Pillow refuses images of more pixels itself.
MOST_PIXELS = 178_956_970

#: The limits of options that ask for processes or threads, and of ports.
_WORKERS = {"minimum": 1, "maximum": 1024}
_PORT = {"minimum": 0, "maximum": 65535}


class PopulateOptions(Options):
    """Which files are served, by which backend, and with which limits."""

    command = "populate"
    models: tuple[str, ...] = argument((), help="Names under --exports; all models by default.")
    exports: Path = option(Path("exports"), help="Folder of exported models.")
    repository: Path = option(Path("model_repository"), help="Triton model repository.")
    backend: BackendName | None = option(
        None, help="Triton backend that runs the network; onnxruntime by default."
    )
    precision: Precision | None = option(None, help="Precision that is served; fp32 by default.")
    flavor: Flavor = option(
        Flavor.TENSORRT, help="Kind of the plans; only the embedded server loads those of rtx."
    )
    version: int | None = option(
        None, minimum=1, help="Number of the new version; the next free number by default."
    )
    promote: bool = option(
        True, help="Make the new version live. Without, `promote` does it later."
    )
    to: str | None = option(
        None,
        help="Then promote it, gates included, and make it live there too: s3://bucket/folder, "
        "gs://bucket/folder or a path.",
    )
    device: Literal["cpu", "gpu"] | None = option(
        None, help="Where the network runs: cpu by default, always gpu with tensorrt."
    )
    require_validated: bool = option(
        False, help="Take only a file that `validate` passed, else end with 4."
    )
    max_batch_size: int | None = option(
        None, minimum=1, help="Most images of a request or batch; 64 by default, 4 for dense tasks."
    )
    top_k: int | None = option(
        None, minimum=1, help="Number of classes in an answer of a classifier; 5 by default."
    )
    max_bytes: int = option(
        DEFAULT_MAX_BYTES, minimum=1, help="Largest encoded image that is served, in bytes."
    )
    max_pixels: int = option(
        DEFAULT_MAX_PIXELS,
        minimum=1,
        maximum=MOST_PIXELS,
        help="Most pixels of an image that is served; larger images are not decoded.",
    )
    fast_decode: bool = option(
        False, help="Decode JPEG files at reduced scale: faster, other answers, its own verdict."
    )
    instances: int | None = option(
        None,
        **_WORKERS,
        help="Copies of the network on each device; 1 by default, 2 of a classifier on the CPU.",
    )
    preprocess_instances: int | None = option(
        None, **_WORKERS, help="Processes that decode images; 2 by default, 4 before a GPU."
    )
    threads: int | None = option(
        None,
        minimum=0,
        maximum=1024,
        help="Threads of one copy of the network on the CPU; by default one for each core, as 0.",
    )
    queue_delay_us: int | None = option(
        None,
        minimum=0,
        maximum=10_000_000,
        help="Microseconds that the network waits for more images to fill a batch; 0 by default.",
    )
    queue_size: int = option(
        128,
        minimum=1,
        maximum=65536,
        help="Requests that may wait for a step; more are refused.",
    )
    queue_timeout: float = option(
        60.0, minimum=0.001, maximum=3600, help="Seconds that a request may wait for each step."
    )

    def check(self) -> None:
        if self.to and not self.promote:
            raise BadInput("--to makes the version live, --no-promote does not; give one of them")
        backend, precision = self.chosen_backend, self.chosen_precision
        facts = backend.facts
        if precision not in facts.precisions:
            *first, last = facts.precisions
            able = [name for name in BackendName if precision in name.facts.precisions]
            raise BadInput(
                f"--backend {backend} serves {', '.join(first)} and {last}, not "
                f"{precision}, as {facts.why_not}; --precision {precision} is for "
                f"--backend {' or '.join(able)}"
            )
        if self.device not in (None, *facts.devices):
            place = "the CPU" if self.device == "gpu" else "a GPU"
            raise BadInput(
                f"--device {self.device}: --backend {backend} runs on {place}; omit one of the two"
            )
        if not facts.engines:
            self.refuse("is for --backend tensorrt", "flavor")
        if self.chosen_device == "gpu":
            self.refuse("is for a network on the CPU; this one runs on a GPU", "threads")

    def check_files(self) -> None:
        check_output_folder(self.repository, "--repository")

    @property
    def file_precision(self) -> Precision:
        """The precision of the ONNX file that is served; OpenVINO makes bf16 of the FP32 file."""
        return Precision.FP32 if self.precision is Precision.BF16 else self.chosen_precision

    @property
    def chosen_backend(self) -> BackendName:
        return self.backend or BackendName.ONNXRUNTIME

    @property
    def chosen_precision(self) -> Precision:
        return self.precision or Precision.FP32

    @property
    def chosen_device(self) -> Literal["cpu", "gpu"]:
        """The device of the network: the given one, else the backend's first."""
        return self.device or self.chosen_backend.facts.devices[0]

    @property
    def decoders(self) -> int:
        """The number of processes that decode images."""
        return self.preprocess_instances or (4 if self.chosen_device == "gpu" else 2)


class ServeOptions(MonitoringOptions):
    """Where the server listens, and which server it is."""

    command = "serve"
    repository: Path = option(Path("model_repository"), help="Triton model repository.")
    host: str = option("127.0.0.1", help="IPv4 address to listen on.")
    http_port: int = option(8000, **_PORT, help="Port of HTTP; 0 for a free one.")
    grpc_port: int = option(8001, **_PORT, help="Port of gRPC; 0 for a free one.")
    metrics_port: int = option(8002, **_PORT, help="Port of the metrics; 0 for a free one.")
    ephemeral_ports: bool = option(False, help="Take any free ports.")
    log_file: Path | None = option(
        None, help="Log of the server; tritonserver-HTTPPORT.log in the working folder by default."
    )
    timeout: float = option(300.0, minimum=1, help="Seconds until all models must be loaded.")
    expose_embedded: bool = option(
        False, help="Let the embedded server, which lacks security fixes, listen on --host."
    )
    admin_key_file: Path | None = option(
        None,
        help="File of the key for the API that steers the server; it is made where there is none. "
        "Only `serve` itself can steer the server without this option.",
    )
    docker: bool = option(
        False, help="Print the command of NVIDIA's container, and run it where Docker answers."
    )

    @property
    def ports(self) -> Ports:
        """The TCP ports; 0 takes a free one."""
        chosen = Ports(self.http_port, self.grpc_port, self.metrics_port)
        return EPHEMERAL if self.ephemeral_ports else chosen

    def check(self) -> None:
        super().check()
        if self.docker:
            here = ("ephemeral_ports", "log_file", "timeout", "expose_embedded", "admin_key_file")
            self.refuse("does nothing with --docker; omit one of the two", *here)
        if self.ephemeral_ports:
            ports = ("http_port", "grpc_port", "metrics_port")
            self.refuse("does nothing with --ephemeral-ports; omit one of the two", *ports)
        if self.host in ("127.0.0.1", "localhost"):
            self.refuse(f"does nothing with --host {self.host}; omit it", "expose_embedded")

    def check_files(self) -> None:
        if self.log_file is not None:
            if self.log_file.exists() and not self.log_file.is_file():
                what = "is a folder or a device; the log is read again, so give a file"
                raise BadInput(f"--log-file {self.log_file} {what}")
            check_output_folder(self.log_file.parent, "--log-file")


class ContainerOptions(Options):
    """Where the image of the Dockerfile has its files."""

    state: Path = option(
        Path("/var/lib/dfvt-deploy"),
        envvar="DFVT_STATE",
        help="Folder kept between starts.",
    )
    repository: Path = option(
        Path("/models"), envvar="DFVT_REPOSITORY", help="Folder of a mounted repository."
    )


class RequirementOptions(Options):
    """`container tensorrt-requirement` has no options of its own."""

    command = "container tensorrt-requirement"


class HealthOptions(ContainerOptions):
    """Which server must answer, and for which models."""

    command = "container health"
    url: str = option("127.0.0.1:8000", help="host:port of HTTP.")


class PrepareOptions(ContainerOptions):
    """What the image of the Dockerfile makes a repository of."""

    command = "container prepare"
    exports: Path = option(
        Path("/exports"),
        envvar="DFVT_EXPORTS",
        help="Folder of exported models. Engines are built into it, or into a copy under --state "
        "where it cannot be written.",
    )
    backend: BackendName = option(
        BackendName.TENSORRT, envvar="DFVT_BACKEND", help="Triton backend that runs the network."
    )
    precision: Precision | None = option(
        None, envvar="DFVT_PRECISION", help="fp16 by default, fp32 with onnxruntime."
    )
    models: str = option(
        "", envvar="DFVT_MODELS", help="Names separated by commas; all models by default."
    )
    max_batch_size: int | None = option(
        None,
        minimum=1,
        envvar="DFVT_MAX_BATCH_SIZE",
        help="Largest batch of engines and repository; 64 by default, 4 for dense tasks.",
    )

    @property
    def chosen_precision(self) -> Precision:
        """The given precision, else the one that is usual for the backend."""
        return self.precision or self.backend.facts.precisions[0]


class StartOptions(PrepareOptions, MonitoringOptions):
    """What the image of the Dockerfile serves, and where."""

    command = "container start"
    host: str = option("0.0.0.0", envvar="DFVT_HOST", help="IPv4 address to listen on.")
    http_port: int = option(8000, **_PORT, help="Port of HTTP.")
    grpc_port: int = option(8001, **_PORT, help="Port of gRPC.")
    metrics_port: int = option(8002, **_PORT, help="Port of the metrics.")
    timeout: float = option(
        600.0, minimum=1, envvar="DFVT_TIMEOUT", help="Seconds until all models must be loaded."
    )


class PredictOptions(Options):
    """Which images are sent to which model, and what becomes of the answers."""

    command = "predict"
    images: tuple[str, ...] = argument(help="Image files, folders of them, or patterns as '*.jpg'.")
    model: str = option(help="Name of the model on the server.")
    protocol: TritonProtocol = option(TritonProtocol.GRPC, help="Protocol of the requests.")
    url: str | None = option(
        None, help="host:port of the server; 127.0.0.1:8001 by default, with http 127.0.0.1:8000."
    )
    model_version: str = option("", help="Version of the model; the live one by default.")
    min_score: float | None = option(
        None, minimum=0, maximum=1, help="Least score of an answer that is kept; all by default."
    )
    save: Path | None = option(None, help="Folder for copies of the images with the answers drawn.")
    coco: Path | None = option(None, help="File for the detections of all images as COCO results.")
    timeout: float = option(60.0, minimum=0.001, help="Seconds for one request.")

    def check_files(self) -> None:
        if self.save is not None:
            check_output_folder(self.save, "--save")
        if self.coco is not None:
            check_output_folder(self.coco.parent, "--coco")
