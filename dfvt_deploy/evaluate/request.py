"""What a validation is asked for, and the command line that asks for it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..artifact import Artifact
from ..errors import BadInput
from ..runners.triton import Protocol
from ..types import Precision

if TYPE_CHECKING:
    from .datasets import Kind

Against = Literal["fp32", "onnx"]
Device = Literal["cpu", "cuda"]

#: Folders whose default names need no mention in a command.
_EXPORTS = "exports"


@dataclass(frozen=True)
class Request:
    """The arguments of `validate`, which documents them.

    Raises:
        BadInput: options that do not go together, or out of range.
    """

    checkpoint: str | Path | None = None
    precisions: Sequence[Precision] | None = None
    engines: Sequence[str] | None = None
    serve: bool = False
    repository: Path = Path("model_repository")
    url: str | None = None
    protocol: Protocol = "grpc"
    served: str | None = None
    dataset: Kind | None = None
    data: Path | None = None
    images: Path | None = None
    limit: int | None = None
    max_drop: float | None = None
    against: Against = "fp32"
    device: Device = "cpu"
    workers: int | None = None
    threads: int | None = None
    layers: str | None = None

    def __post_init__(self) -> None:
        if self.dataset is not None and self.data is None:
            raise BadInput(f"--dataset {self.dataset} needs --data, the folder or file it is in")
        if self.dataset is None and self.data is not None:
            raise BadInput(
                "--data needs --dataset imagenet, coco or ade20k; images without labels: --images"
            )
        if self.dataset is not None and self.images is not None:
            raise BadInput("--images is for images without labels; leave it out with --dataset")
        if self.max_drop is not None and self.dataset is None:
            raise BadInput(
                "--max-drop is in points of a dataset's metric and needs --dataset and --data; "
                "without labels the limits of agreement decide"
            )
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise BadInput(f"--max-drop {self.max_drop:g} is outside 0..100 points")
        if self.serve and self.url is not None:
            raise BadInput("--serve starts a server, --url names a running one; give one of them")
        if self.served is not None and self.url is None:
            raise BadInput("--served is for --url; what a repository serves is known")
        if self.against not in ("fp32", "onnx"):
            raise BadInput(f"--against {self.against!r} is neither fp32 nor onnx")
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and not 1 <= value <= 1024:
                raise BadInput(f"--{name} {value} is outside 1..1024")

    def command(self, artifact: Artifact) -> str:
        """The command line, with the names of files and folders, not their places."""
        words = ["dfvt-deploy", "validate", artifact.directory.name]
        exports = artifact.directory.parent.name
        if exports not in ("", _EXPORTS):
            words += ["--exports", exports]
        for option, value in (
            ("checkpoint", self.checkpoint and Path(self.checkpoint).name),
            ("dataset", self.dataset),
            ("data", self.data and self.data.name),
            ("images", self.images and self.images.name),
            ("limit", self.limit),
            ("max-drop", None if self.max_drop is None else f"{self.max_drop:g}"),
            ("url", self.url),
            ("served", self.served),
            ("layers", self.layers),
            ("protocol", None if self.protocol == "grpc" else self.protocol),
            ("against", None if self.against == "fp32" else self.against),
            ("device", None if self.device == "cpu" else self.device),
        ):
            if value is not None:
                words += [f"--{option}", str(value)]
        for precision in self.precisions or ():
            words += ["--precision", str(precision)]
        for engine in self.engines or ():
            words += ["--engine", engine]
        if self.serve:
            words += ["--serve", "--repository", self.repository.name]
        return shlex.join(words)
