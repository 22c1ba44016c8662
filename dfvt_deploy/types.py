"""The few types everything else speaks in: tasks, variants, precisions, flavors of engines."""

from enum import Enum
from importlib import import_module
from typing import Any

#: Most classes of a model: as many as a 16-bit class map can tell apart.
MAX_CLASSES = 65_536


class StringEnum(str, Enum):
    """One of a few words, written as the word."""

    def __str__(self) -> str:
        return self.value


class Task(StringEnum):
    """What a model answers."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"
    SEGMENTATION = "segmentation"

    def entry(self, layer: str, name: str) -> Any:
        """The object called `name`, the same for each task, in the file of this task in a layer: a
        package of dfvt_deploy, such as `compare` or `serving.tasks`."""
        return getattr(import_module(f"{__package__}.{layer}.{self}"), name)


class Variant(StringEnum):
    """The published model sizes; their figures are `models.backbone.VARIANTS`."""

    T = "t"
    S = "s"
    B = "b"


class Precision(StringEnum):
    """What a network computes in.

    `fp16` is mixed precision decided per node. `bf16` has no file of its own: it is model.onnx
    compiled by OpenVINO in bfloat16.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Flavor(StringEnum):
    """Whose engine: TensorRT's, for one kind of GPU, or TensorRT-RTX's, for several RTX GPUs."""

    TENSORRT = "tensorrt"
    RTX = "rtx"

    @property
    def product(self) -> str:
        return {Flavor.TENSORRT: "TensorRT", Flavor.RTX: "TensorRT-RTX"}[self]


class TritonProtocol(StringEnum):
    """The protocol of requests to a Triton server, which has a port for each."""

    GRPC = "grpc"
    HTTP = "http"


class InputKind(StringEnum):
    """The image tensor an exported graph takes.

    `UINT8`: `images` uint8 RGB (N, H, W, 3), normalised inside the graph.
    `FLOAT32`: `images` float32 (N, 3, H, W), normalised by the caller.
    """

    UINT8 = "uint8"
    FLOAT32 = "float32"


class Nms(StringEnum):
    """How a detector removes overlapping boxes: `soft` is linear soft-NMS, which lowers scores."""

    HARD = "hard"
    SOFT = "soft"


class RangeMethod(StringEnum):
    """How the range of an activation is chosen from its values on calibration images.

    `ENTROPY` loses the least information, `PERCENTILE` cuts 0.001 % off, `MINMAX` keeps all.
    """

    ENTROPY = "entropy"
    PERCENTILE = "percentile"
    MINMAX = "minmax"


class Int8Target(StringEnum):
    """What runs an INT8 file.

    `CPU`: onnxruntime, activations uint8 with a zero point. `OPENVINO`: NNCF chooses. `TENSORRT`:
    activations int8 around 0 and biases in float, all that its explicit quantisation takes.
    """

    CPU = "cpu"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"


class SearchUnit(StringEnum):
    """What a search for less loss keeps or gives up as one: single nodes, or all of an operator."""

    NODES = "nodes"
    OPERATORS = "operators"


def model_name(task: Task, variant: Variant) -> str:
    """The default name of a model: its folder under `exports/` and its Triton ensemble."""
    return f"dfvt_{variant}_{task}"


class Weights(StringEnum):
    """Which weights of a checkpoint are meant: the model's, or their moving average (EMA)."""

    MODEL = "model"
    EMA = "ema"
