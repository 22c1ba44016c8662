"""The few types everything else speaks in: tasks, variants, precisions, flavors of engines."""

from __future__ import annotations

from enum import Enum


class Choice(str, Enum):
    """One of a few words, written as the word."""

    def __str__(self) -> str:
        return self.value


class Task(Choice):
    """What a model answers."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"
    SEGMENTATION = "segmentation"


class Variant(Choice):
    """The published model sizes; their figures are `models.backbone.VARIANTS`."""

    T = "t"
    S = "s"
    B = "b"


class Precision(Choice):
    """What a file computes in; `fp16` is mixed precision decided per node."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Flavor(Choice):
    """Whose engine: TensorRT's, for the kind of GPU it was built on, or TensorRT-RTX's, for
    several RTX GPUs and built without one."""

    TENSORRT = "tensorrt"
    RTX = "rtx"

    @property
    def product(self) -> str:
        return {Flavor.TENSORRT: "TensorRT", Flavor.RTX: "TensorRT-RTX"}[self]


class InputKind(Choice):
    """The image tensor an exported graph takes.

    `UINT8`: `images` uint8 RGB (N, H, W, 3), normalised inside the graph.
    `FLOAT32`: `images` float32 (N, 3, H, W), normalised by the caller.
    """

    UINT8 = "uint8"
    FLOAT32 = "float32"


class Nms(Choice):
    """How a detector removes overlapping boxes: `soft` is linear soft-NMS, which lowers scores."""

    HARD = "hard"
    SOFT = "soft"


class NmsOperator(Choice):
    """What an exported graph does NMS with: loops of fixed shapes, or ONNX's NonMaxSuppression.

    The operator's outputs change size with the data. It is there to compare with.
    """

    LOOP = "loop"
    ONNX = "onnx"


class RangeMethod(Choice):
    """How the range of an activation is chosen from its values on calibration images.

    `ENTROPY` loses the least information, `PERCENTILE` cuts 0.001 % off, `MINMAX` keeps all.
    """

    ENTROPY = "entropy"
    PERCENTILE = "percentile"
    MINMAX = "minmax"


class Int8Target(Choice):
    """What runs an INT8 file.

    `CPU`: activations uint8 with a zero point, the fast kind in onnxruntime. `TENSORRT`:
    activations int8 around 0 and biases in float, all that its explicit quantisation takes.
    """

    CPU = "cpu"
    TENSORRT = "tensorrt"


class SearchUnit(Choice):
    """What a search for less loss keeps or gives up as one: single nodes, or all of an operator."""

    NODES = "nodes"
    OPERATORS = "operators"


def model_name(task: Task, variant: Variant) -> str:
    """The default name of a model: its folder under `exports/` and its Triton ensemble."""
    return f"dfvt_{variant}_{task}"
