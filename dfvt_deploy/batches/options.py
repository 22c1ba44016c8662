from pathlib import Path
from typing import Literal

from ..errors import BadInput
from ..files import check_output_folder
from ..options import Options, argument, option
from ..serving.options import DEFAULT_MAX_BYTES, DEFAULT_MAX_PIXELS, MOST_PIXELS
from ..types import Precision, StringEnum


class BatchEngine(StringEnum):
    """What answers the images: processes of this machine, actors of Ray, or Triton servers."""

    LOCAL = "local"
    RAY = "ray"
    TRITON = "triton"


class BatchOptions(Options):
    """Which images are answered by which model, by what, and where the tables go."""

    command = "batch"
    input: str = argument(
        help="Folder, pattern as 'photos/*.jpg', list of paths (.txt), Parquet file with a column "
        "of bytes or paths, or one of these as a URL: s3://bucket/photos."
    )
    model: str = option(help="Name under --exports; with --engine triton, on the server.")
    output: Path = option(help="Folder for the tables. A run that was stopped goes on there.")
    engine: BatchEngine = option(BatchEngine.LOCAL, help="What answers the images.")
    exports: Path = option(Path("exports"), help="Folder of exported models.")
    backend: Literal["onnxruntime", "openvino"] = option(
        "onnxruntime", help="Runtime of the network."
    )
    precision: Precision = option(Precision.FP32, help="Precision of the network.")
    max_bytes: int = option(
        DEFAULT_MAX_BYTES, minimum=1, help="Largest encoded image that is taken, in bytes."
    )
    max_pixels: int = option(
        DEFAULT_MAX_PIXELS,
        minimum=1,
        maximum=MOST_PIXELS,
        help="Most pixels of an image that is taken; larger images are not decoded.",
    )
    column: str | None = option(
        None, help="Column of a Parquet file, as image.bytes; found by its type by default."
    )
    workers: int | None = option(
        None, minimum=1, maximum=4096, help="Processes that run the network; one a CPU by default."
    )
    address: str | None = option(
        None, help="Ray cluster, as ray://host:10001 or auto; one of this machine by default."
    )
    url: tuple[str, ...] = option(
        (), help="host:port of a server's gRPC, once for each server; 127.0.0.1:8001 by default."
    )
    in_flight: int = option(
        8, minimum=1, maximum=256, help="Most requests at a time for each server."
    )
    export: tuple[Literal["coco", "fiftyone"], ...] = option(
        (), help="Also write COCO results, or a dataset that FiftyOne loads."
    )

    def check(self) -> None:
        if self.engine is BatchEngine.TRITON:
            decided = ("exports", "backend", "precision", "max_pixels")
            self.refuse("is decided by the server with --engine triton; omit it", *decided)
            self.refuse("is not for --engine triton; give --in-flight", "workers")
        else:
            self.refuse("is for --engine triton", "url", "in_flight")
        if self.engine is not BatchEngine.RAY:
            self.refuse("is for --engine ray", "address")
        if (self.backend, self.precision) in (("onnxruntime", "bf16"), ("openvino", "fp16")):
            raise BadInput(f"--backend {self.backend} does not compute in {self.precision}")

    def check_files(self) -> None:
        check_output_folder(self.output, "--output")
