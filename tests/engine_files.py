"""Exported models in lower precisions, made the short way: what engines are built from."""

import shutil
from pathlib import Path

import numpy as np
import onnx

from dfvt_deploy.artifact import Artifact, file_record, open_artifact, update_manifest
from dfvt_deploy.names import ONNX_FILES, onnx_file
from dfvt_deploy.types import Int8Target, Precision

SIDE = 64


def copied(artifact: Artifact, parent: Path) -> Artifact:
    """The same model in a folder of its own, to be changed."""
    directory = parent / artifact.manifest.name
    shutil.copytree(artifact.directory, directory)
    return open_artifact(directory)


def add_fp16(artifact: Artifact) -> Artifact:
    """With model.fp16.onnx, everything in float16 but inputs and outputs."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(
        onnx.load(artifact.onnx_path()), keep_io_types=True, disable_shape_infer=True
    )
    del model.graph.value_info[:]
    return add_file(artifact, Precision.FP16, model.SerializeToString())


def add_quantised(artifact: Artifact, *, signed: bool = True) -> Artifact:
    """With model.int8.tensorrt.onnx: int8 activations about 0, or onnxruntime's uint8 ones."""
    from onnxruntime import quantization

    class OneBatch(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = iter([feed(artifact, batch=2)])

        def get_next(self):
            return next(self._feeds, None)

    quantised = artifact.directory / "quantised.onnx"
    quantization.quantize_static(
        artifact.onnx_path(),
        quantised,
        OneBatch(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QInt8 if signed else quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        extra_options={
            "ActivationSymmetric": signed,
            "WeightSymmetric": True,
            "QuantizeBias": not signed,
        },
    )
    content = quantised.read_bytes()
    quantised.unlink()
    return add_file(artifact, Precision.INT8, content)


def add_file(artifact: Artifact, precision: Precision, content: bytes) -> Artifact:
    """Write the ONNX file of a precision and list it, as made from today's model.onnx."""
    name = onnx_file(precision, Int8Target.TENSORRT)
    path = artifact.directory / name
    path.write_bytes(content)
    source = artifact.manifest.files[ONNX_FILES[Precision.FP32]].sha256
    made_from = source if precision is not Precision.FP32 else None
    listed = file_record(path, precision, "dfvt-deploy convert", source_sha256=made_from)
    update_manifest(
        artifact.directory,
        lambda manifest: manifest.model_copy(update={"files": {**manifest.files, name: listed}}),
    )
    return open_artifact(artifact.directory)


def feed(artifact: Artifact, batch: int) -> dict[str, np.ndarray]:
    """Random pixels on a small canvas that they fill."""
    rng = np.random.default_rng(0)
    known = {"batch": batch, "height": SIDE, "width": SIDE}
    arrays = {}
    for spec in artifact.manifest.inputs:
        shape = [known[dim] if isinstance(dim, str) else dim for dim in spec.shape]
        values = rng.integers(0, 255, shape) if spec.name == "images" else np.full(shape, SIDE)
        arrays[spec.name] = values.astype(spec.dtype)
    return arrays
