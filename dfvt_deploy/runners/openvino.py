"""ONNX files in OpenVINO on the CPU."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import BadInput, StageFailed, optional
from ..types import Precision
from . import InferenceFailed, Tensors

#: OpenVINO's hint for each precision. Without a hint it computes in bfloat16 where the CPU can.
#: What an INT8 file leaves in floating point is computed in float32, as in onnxruntime.
_HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16", Precision.INT8: "f32"}


@dataclass(eq=False)
class OpenVINORunner:
    """One ONNX file compiled by OpenVINO. Several threads may call `infer` at once.

    precision: `fp32` or `bf16`, what the nodes of `path` are computed in; `int8` for a file whose
        QuantizeLinear nodes say it. Any other raises BadInput.
    threads: how many threads OpenVINO uses in all; by default as many as the CPU has cores.
    streams: how many inferences run at once, each on its part of the threads.

    Entering raises StageFailed where OpenVINO cannot compile the file, or not in this precision on
    this CPU, MissingDependency where it is not installed.
    """

    path: Path
    precision: Precision = Precision.FP32
    threads: int | None = None
    streams: int | None = None
    _models: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.precision not in _HINTS:
            raise BadInput(
                f"OpenVINO on a CPU does not compute in {self.precision}; use one of "
                f"{', '.join(_HINTS)}"
            )

    def __enter__(self) -> "OpenVINORunner":
        openvino = optional("openvino")
        from ..openvino_models import CompiledModels

        hint = _HINTS[self.precision]
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint}
        if self.threads:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        if self.streams:
            settings["NUM_STREAMS"] = self.streams
        try:
            self._models = CompiledModels(self.path, settings)
        except Exception as error:  # OpenVINO raises RuntimeError and its own exceptions.
            version = openvino.__version__.split("-")[0]
            raise StageFailed(
                f"OpenVINO {version} cannot compile {self.path}: {_reason(error)}; "
                "make the file again, or use another release of OpenVINO"
            ) from error
        if (found := self._models.precision) != hint:
            self._models = None
            raise StageFailed(
                f"OpenVINO computes {self.path.name} in {found} on this CPU, not in {hint}; use "
                "onnxruntime, or a CPU with bfloat16 instructions"
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._models = None

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Run the network on its inputs, by name, and return all of its outputs. Raises
        InferenceFailed where the inputs do not fit the network, or a node failed on them."""
        self._check_types(feed)  # OpenVINO would convert one type to another without an error.
        try:
            return dict(self._models.infer(feed))
        except Exception as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in feed.items())
            raise InferenceFailed(
                f"OpenVINO cannot run {self.path.name} on inputs of shapes {shapes}: "
                f"{_reason(error)}"
            ) from error

    def _check_types(self, feed: Tensors) -> None:
        inputs = self._models.inputs
        wanted = {each.get_any_name(): str(each.get_element_type().to_dtype()) for each in inputs}
        given = {name: str(value.dtype) for name, value in feed.items()}
        if given != wanted:
            raise InferenceFailed(f"{self.path.name} takes {_listed(wanted)}, not {_listed(given)}")


def _listed(types: dict[str, str]) -> str:
    return ", ".join(f"{name} of {dtype}" for name, dtype in types.items()) or "nothing"


def _reason(error: Exception) -> str:
    """The last line of an error's message that is not empty; those above say where it was found."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
