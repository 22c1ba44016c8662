"""The Triton backends that run a network, and what each serves; `backends/` has its files."""

from dataclasses import dataclass
from typing import Literal

from ..types import Int8Target, Precision, StringEnum


@dataclass(frozen=True)
class BackendFacts:
    """What a backend serves.

    devices, precisions: where it runs the network, and in what; the default first.
    why_not: why it serves no other precision.
    int8_target: the target of the INT8 files that it serves.
    engines: whether its files are engines, which are built for one kind of GPU.
    """

    devices: tuple[Literal["cpu", "gpu"], ...]
    precisions: tuple[Precision, ...]
    why_not: str = "bf16 is what OpenVINO makes of the FP32 file"
    int8_target: Int8Target = Int8Target.CPU
    engines: bool = False


class BackendName(StringEnum):
    """The Triton backend of the network; each has a file in `serving.backends`."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"

    @property
    def facts(self) -> BackendFacts:
        return _FACTS[self]


_FACTS = {
    BackendName.ONNXRUNTIME: BackendFacts(
        ("cpu", "gpu"), (Precision.FP32, Precision.FP16, Precision.INT8)
    ),
    BackendName.OPENVINO: BackendFacts(
        ("cpu",),
        (Precision.BF16, Precision.INT8),
        why_not="OpenVINO computes float32 files in bfloat16",
        int8_target=Int8Target.OPENVINO,
    ),
    BackendName.TENSORRT: BackendFacts(
        ("gpu",),
        (Precision.FP16, Precision.FP32, Precision.INT8),
        int8_target=Int8Target.TENSORRT,
        engines=True,
    ),
}
