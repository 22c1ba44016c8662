"""The options of `explain`."""

from pathlib import Path
from typing import Literal

from ..errors import BadInput
from ..files import check_output_folder
from ..options import Options, argument, option
from ..types import Precision, TritonProtocol

_Fine = Literal["stage1.context", "stage1.spatial", "stage2.context", "stage2.spatial"]
_Coarse = Literal["stage3.context", "stage3.spatial", "stage4.context", "stage4.spatial"]
Layer = Literal[_Fine, _Coarse]


class ExplainOptions(Options):
    """What is explained of which images, and how."""

    command = "explain"

    images: tuple[str, ...] = argument(help="Image files, folders of them, or patterns as '*.jpg'.")
    model: str = option(help="Name of the exported model under --exports.")
    exports: Path = option(Path("exports"), help="Folder of exported models.")
    output: Path = option(Path("explanations"), help="Folder for the pictures and arrays.")
    method: Literal["grad-cam++", "occlusion"] = option(
        "grad-cam++",
        help="grad-cam++ takes gradients of the PyTorch model; occlusion covers parts of the image "
        "and takes answers of any runtime or server.",
    )
    layers: tuple[Layer, ...] = option(
        (),
        flag="--layer",
        help="Layer whose map is drawn, of the context path (attention) or the spatial path "
        "(convolutions); may be given again. The most faithful one of the task by default.",
    )
    classes: tuple[str, ...] = option(
        (), flag="--class", help="Name or id of a class that is explained; may be given again."
    )
    detections: tuple[int, ...] = option(
        (),
        flag="--detection",
        minimum=1,
        help="Rank of a detection that is explained, 1 for the best; may be given again.",
    )
    top: int = option(
        1, minimum=1, help="Explain this many: the best classes or detections, the largest classes."
    )
    checkpoint: str | None = option(
        None,
        help="Checkpoint that the model was exported from, or 'published'; found as validate does "
        "by default.",
    )
    runtime: Literal["onnxruntime", "openvino", "tensorrt"] = option(
        "onnxruntime", help="What runs the file that is explained beside model.onnx."
    )
    precision: Precision = option(
        Precision.FP32, help="Precision of the file that is explained beside model.onnx."
    )
    url: str | None = option(
        None, help="Explain the Triton server at this host:port beside model.onnx."
    )
    protocol: TritonProtocol = option(
        TritonProtocol.GRPC, help="Protocol of the requests to the Triton server."
    )
    grid: int = option(
        8, minimum=2, maximum=64, help="Windows along each side that occlusion covers in turn."
    )

    def check(self) -> None:
        if self.method == "occlusion":
            self.refuse("is for --method grad-cam++", "layers", "checkpoint")
        else:
            needing = ("runtime", "precision", "url", "protocol", "grid")
            self.refuse("is for --method occlusion; grad-cam++ needs PyTorch", *needing)
        if self.url is None:
            self.refuse("is for --url", "protocol")
        else:
            self.refuse("does nothing with --url; omit one of the two", "runtime", "precision")
        if (self.classes or self.detections) and self.top != 1:
            raise BadInput("--top chooses what --class or --detection names; omit one of the two")

    def check_files(self) -> None:
        check_output_folder(self.output, "--output")
