"""The programs that run a network: PyTorch, onnxruntime, OpenVINO, TensorRT, a Triton server.

Each runner is a context manager with one method, `infer`, which maps named tensors to named
tensors. Enter through the file of the program, such as `onnx_runtime.OnnxRuntimeRunner`, or through
`open_network` for an exported model's file in a runtime.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from ..artifact import Artifact
from ..errors import ArtifactError, StageFailed
from ..names import onnx_file
from ..types import Int8Target, Precision

#: Arrays by the name of the tensor.
Tensors = Mapping[str, NDArray[Any]]


class Runner(Protocol):
    """A network that can be run while its context is open."""

    def __enter__(self) -> "Runner": ...

    def __exit__(self, *error: object) -> None: ...

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Run the network on its inputs, by name, and return its outputs."""


class InferenceFailed(StageFailed):
    """A network that is loaded cannot compute its outputs for these inputs."""


def network_file(artifact: Artifact, runtime: str, precision: Precision) -> Path:
    """The file that `onnxruntime`, `openvino` or `tensorrt` runs in a precision; BF16 is made of
    the FP32 file. Raises ArtifactError where it was not made, or model.onnx changed since."""
    if runtime != "tensorrt":
        target = Int8Target.OPENVINO if runtime == "openvino" else Int8Target.CPU
        of_file = Precision.FP32 if precision is Precision.BF16 else precision
        return artifact.onnx_path(of_file, target)
    files = artifact.manifest.files
    plans = [name for name in artifact.manifest.plans() if files[name].precision is precision]
    if not plans:
        remedy = artifact.command("build-trt", "--precision", precision)
        raise ArtifactError(f"{artifact.directory} has no {precision} engine; run: {remedy}")
    return artifact.directory / plans[0]


def open_network(
    path: Path,
    runtime: str,
    precision: Precision,
    *,
    threads: int | None = None,
    streams: int | None = None,
    arena: bool = True,
    spinning: bool = True,
) -> Runner:
    """The runner of a file of `network_file`; it ignores what its runtime does not have."""
    if runtime == "tensorrt":
        from .tensorrt import TensorRTRunner

        return TensorRTRunner(path, source=path.parent / onnx_file(precision, Int8Target.TENSORRT))
    if runtime == "openvino":
        from .openvino import OpenVINORunner

        return OpenVINORunner(path, precision, threads, streams)
    from .onnx_runtime import OnnxRuntimeRunner

    return OnnxRuntimeRunner(path, threads=threads, arena=arena, spinning=spinning)
