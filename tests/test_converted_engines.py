"""What `convert` writes is what `build-trt` takes, and what it computes in."""

from dfvt_deploy.precision.build_engines import build_trt
from dfvt_deploy.precision.convert import convert
from dfvt_deploy.types import Precision

from .engine_files import copied


def test_a_converted_fp16_file_is_an_engine_in_float16(fp16_t, tmp_path):
    directory = copied(fp16_t, tmp_path).directory
    full = build_trt(directory, precision="fp32", flavor="rtx").record
    half = build_trt(directory, flavor="rtx").record
    assert half.network_layers.count(Precision.FP16) == half.network_layers.total > 70
    assert full.network_layers.count(Precision.FP32) == full.network_layers.total
    assert half.size < 0.72 * full.size  # T is small beside the kernel sources in every plan


def test_an_int8_file_for_tensorrt_is_an_engine_with_quantised_layers(artifact_t, tmp_path):
    directory = copied(artifact_t, tmp_path).directory
    converted = convert(directory, "int8", target="tensorrt", images=4)
    quantised = sum(row.get("int8", 0) for row in converted.record.operators.values())
    record = build_trt(directory, precision="int8", flavor="rtx").record
    assert record.network_layers.count(Precision.INT8) >= 0.25 * record.network_layers.total
    assert quantised > 0
