"""What `convert` writes is what `build-trt` takes, and what it computes in."""

from dfvt_deploy.conversion.convert import convert
from dfvt_deploy.engines.build import BuildOptions, build_trt
from dfvt_deploy.types import Flavor, Precision

from .engine_files import copied

RTX = BuildOptions(flavor=Flavor.RTX)


def test_a_converted_fp16_file_is_an_engine_in_half_precision(fp16_t, tmp_path):
    directory = copied(fp16_t, tmp_path).directory
    full = build_trt(directory, precision="fp32", options=RTX).record
    half = build_trt(directory, precision="fp16", options=RTX).record
    assert half.network_layers.count(Precision.FP16) == half.network_layers.total > 70
    assert full.network_layers.count(Precision.FP32) == full.network_layers.total
    assert half.size < 0.72 * full.size  # T is small beside the kernel sources in every plan


def test_an_int8_file_for_tensorrt_is_an_engine_with_quantised_layers(artifact_t, tmp_path):
    directory = copied(artifact_t, tmp_path).directory
    converted = convert(directory, "int8", target="tensorrt", images=4)
    quantised = sum(row.get("int8", 0) for row in converted.record.operators.values())
    record = build_trt(directory, precision="int8", options=RTX).record
    assert record.network_layers.count(Precision.INT8) >= 0.25 * record.network_layers.total
    assert quantised > 0
