"""The programs that run a network: PyTorch, onnxruntime, OpenVINO, TensorRT, a Triton server.

Each runner is a context manager with one method, `infer`, which maps named tensors to named
tensors. Enter through the file of the program, such as `onnx_runtime.OnnxRuntimeRunner`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from ..errors import StageFailed

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
