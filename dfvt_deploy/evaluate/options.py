"""The options of `validate`."""

from pathlib import Path
from typing import Literal

from ..errors import BadInput
from ..files import check_utf8
from ..options import Options, argument, option
from ..types import Precision, TritonProtocol


class ValidateOptions(Options):
    """Which forms of a model are compared on which images, and what they may lose."""

    command = "validate"

    model: str = argument(help="Name of the exported model under --exports.")
    exports: Path = option(Path("exports"), help="Folder of exported models.")
    checkpoint: str | None = option(
        None,
        help="Checkpoint that the model was exported from, or 'published'. By default untrained "
        "weights are made again, published ones are taken from the cache, and any other file is "
        "read from the path that export was given.",
    )
    precisions: tuple[Precision, ...] = option(
        (),
        flag="--precision",
        help="Compare only the converted files of this precision; may be given again. fp32 "
        "leaves out all converted files. All files that exist are compared by default; bf16, which "
        "is model.onnx computed by OpenVINO, only where it is given here or served.",
    )
    engines: tuple[str, ...] = option(
        (),
        flag="--engine",
        help="Compare only this TensorRT plan; may be given again. All plans that run on this "
        "machine are compared by default.",
    )
    serve: bool = option(
        False, help="Start a Triton server on --repository and compare its answers too."
    )
    repository: Path = option(Path("model_repository"), help="Triton model repository.")
    url: str | None = option(
        None, help="Compare the answers of the Triton server at this host:port too."
    )
    protocol: TritonProtocol = option(
        TritonProtocol.GRPC, help="Protocol of the requests to the Triton server."
    )
    served: str | None = option(
        None,
        help="File that the server at --url serves, or bf16 for model.onnx in bfloat16; "
        "model.onnx by default.",
    )
    fast_decode: bool = option(
        False, help="Judge populate --fast-decode too; the server at --url is taken to decode so."
    )
    dataset: Literal["imagenet", "coco", "ade20k"] | None = option(
        None, help="Kind of the labelled dataset in --data."
    )
    data: Path | None = option(None, help="Folder or file of the labelled dataset.")
    images: Path | None = option(
        None, help="Folder of images without labels; the package's sample images by default."
    )
    limit: int | None = option(
        None, minimum=1, help="Use at most this many images, evenly spread over the dataset."
    )
    max_drop: float | None = option(
        None,
        minimum=0,
        maximum=100,
        help="Most points that the dataset's metric may fall by; the limit of the gate.",
    )
    against: Literal["fp32", "onnx"] = option(
        "fp32",
        help="Reference: fp32 is the PyTorch model; onnx is model.onnx, for a machine without the "
        "checkpoint, and records no verdict.",
    )
    device: Literal["cpu", "cuda"] = option("cpu", help="Device of PyTorch and onnxruntime.")
    workers: int | None = option(
        None,
        minimum=1,
        maximum=1024,
        help="Threads that decode images; as many as cores and at most 4 by default.",
    )
    threads: int | None = option(
        None,
        minimum=1,
        maximum=1024,
        help="Threads that onnxruntime and PyTorch compute one operator with; all cores by "
        "default.",
    )
    layers: Literal["fp16", "int8"] | None = option(
        None,
        help="Also compare the inner tensors of this converted file with those of model.onnx and "
        "name the first that differs.",
    )
    fresh: bool = option(False, help="Discard the results of an earlier run and start over.")

    def check(self) -> None:
        if self.dataset is None:
            metric = "is in points of a dataset's metric and needs --dataset and --data; without "
            self.refuse(metric + "labels the limits of agreement decide", "max_drop")
            kinds = "needs --dataset imagenet, coco or ade20k; "
            self.refuse(kinds + "give images without labels as --images", "data")
        elif self.data is None:
            raise BadInput(f"--dataset {self.dataset} needs --data, the dataset's folder or file")
        else:
            self.refuse("is for images without labels; leave it out with --dataset", "images")
        if self.serve and self.url is not None:
            raise BadInput("--serve starts a server, --url names a running one; give one of them")
        if self.url is None:
            self.refuse("is for --url; with --serve the file is found by its hash", "served")
            if not self.serve:
                self.refuse("is for --serve or --url; give one of them", "protocol")
        if not self.serve:
            self.refuse("is for --serve", "repository")
        if self.against == "onnx":
            self.refuse("is for --against fp32, which runs the PyTorch model", "checkpoint")

    def check_files(self) -> None:
        check_utf8(self.exports, "--exports")
        for flag, path in (("--data", self.data), ("--images", self.images)):
            if path is not None and not path.exists():
                raise BadInput(f"{flag} {path} does not exist; give a folder or file of images")

    @property
    def directory(self) -> Path:
        """The folder of the exported model."""
        return self.exports / self.model
