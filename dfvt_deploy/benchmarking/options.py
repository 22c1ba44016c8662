from pathlib import Path

from ..errors import BadInput
from ..files import check_output_folder
from ..options import Options, argument, option
from ..types import Precision, StringEnum, TritonProtocol

#: The limits of numbers of images, threads, inferences and requests.
_COUNT = {"minimum": 1, "maximum": 1024}

#: Fields that are about a server, and about networks without one.
_SERVED = ("served", "protocols", "concurrency", "rate", "window", "slo_ms", "fast_decode")
_OFFLINE = ("batch", "threads", "streams", "rounds")


class Runtime(StringEnum):
    """What runs a network offline."""

    PYTORCH = "pytorch"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"


class BenchOptions(Options):
    """What is measured, on which images, and for how long."""

    command = "bench"

    models: tuple[str, ...] = argument(
        (),
        help="Names under --exports; all models by default. With --compare two of: an ONNX file, "
        "an exported model, a result saved from --json.",
    )
    exports: Path = option(Path("exports"), help="Folder of exported models.")
    compare: bool = option(False, help="Compare the two that are named, the first is the baseline.")
    images: Path | None = option(None, help="Folder of images; the package's samples by default.")
    limit: int = option(
        16, minimum=1, help="Use at most this many images, evenly spread over the folder."
    )
    runtimes: tuple[Runtime, ...] = option(
        (),
        flag="--runtime",
        help="Only this runtime, served only this backend; may be given again. All that are "
        "installed by default.",
    )
    precisions: tuple[Precision, ...] = option(
        (), flag="--precision", help="Only this precision; may be given again. All by default."
    )
    batch: tuple[int, ...] = option(
        (1,), **_COUNT, help="Images of one inference; may be given again."
    )
    threads: tuple[int, ...] = option(
        (),
        **_COUNT,
        help="Threads of a runtime in all; may be given again. One for each core by default.",
    )
    streams: tuple[int, ...] = option(
        (1,), **_COUNT, help="Inferences at a time, which share the threads; may be given again."
    )
    rounds: int = option(
        30, minimum=1, help="How often each candidate is timed; in each round once, shuffled."
    )
    serve: bool = option(
        False, help="Measure a live Triton server instead, started here for each candidate."
    )
    repository: Path | None = option(
        None, help="With --serve: serve what this model repository holds, with its settings."
    )
    url: str | None = option(None, help="Measure the Triton server at this host:port instead.")
    served: str | None = option(
        None,
        help="File that the server at --url serves, or bf16 for model.onnx in bfloat16; "
        "model.onnx by default.",
    )
    fast_decode: bool = option(
        False, help="Measure populate --fast-decode too; the server at --url is taken to decode so."
    )
    protocols: tuple[TritonProtocol, ...] = option(
        (), flag="--protocol", help="Protocol of the requests; both by default, with --url grpc."
    )
    concurrency: tuple[int, ...] = option(
        (), **_COUNT, help="Requests under way at a time; may be given again. 1 and 8 by default."
    )
    rate: tuple[float, ...] = option(
        (),
        minimum=0.01,
        maximum=1e5,
        help="Requests a second that arrive by chance, whether or not earlier ones were answered; "
        "may be given again.",
    )
    window: float = option(
        2.0,
        minimum=0.01,
        maximum=3600,
        help="Seconds of one measurement; three in a row must agree within 10 %.",
    )
    slo_ms: float | None = option(
        None, minimum=0.001, help="Milliseconds after which a right answer is no good any more."
    )
    html: Path | None = option(None, help="Also write the results as one HTML page.")

    @property
    def on_server(self) -> bool:
        """Whether a live server is measured."""
        return self.serve or self.url is not None

    @property
    def loads(self) -> tuple[tuple[int, float], ...]:
        """Concurrency and rate of each measurement; one of the two is 0."""
        concurrency = self.concurrency or (() if self.rate else (1, 8))
        return (*((each, 0.0) for each in concurrency), *((0, each) for each in self.rate))

    def check(self) -> None:
        if self.compare and len(self.models) != 2:
            raise BadInput(f"--compare takes two models, files or results, not {len(self.models)}")
        if self.serve and self.url:
            raise BadInput("--serve starts a server, --url names one; give one of them")
        if self.url and len(self.protocols) > 1:
            raise BadInput("--url is the port of one protocol; give --protocol once")
        if self.url and len(self.models) != 1:
            raise BadInput("--url measures one model; name it")
        if self.on_server:
            self.refuse("is for networks without a server; omit it", *_OFFLINE, "compare")
        else:
            self.refuse("is for a live server; give --serve or --url too", *_SERVED)
        if not self.serve:
            self.refuse("needs --serve", "repository")
        if not self.url:
            self.refuse("needs --url", "served")
        if self.url or self.repository:
            self.refuse("is the server's choice; omit it", "runtimes", "precisions")
        if self.repository:
            self.refuse("is what the repository says; omit it", "fast_decode")
        if self.on_server and Runtime.PYTORCH in self.runtimes:
            raise BadInput("--runtime pytorch: no backend of Triton's here runs it; omit it")

    def check_files(self) -> None:
        if self.html is not None:
            check_output_folder(self.html.parent, "--html")
            if self.html.is_dir():
                raise BadInput(f"--html {self.html} is a folder; give a file in it")
