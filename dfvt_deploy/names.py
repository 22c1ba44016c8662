"""Names of models and their files; options use this module, so it imports no package."""

import re

from .errors import BadInput
from .types import Int8Target, Precision

#: The name of a model or of a file: one part of a path, never a path.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}$"

#: The ends of the names of a served model's steps; a model's own name may not end like that.
STEPS = ("preprocess", "network", "postprocess")

#: The file name of each precision's ONNX file; of INT8, the file for the CPU. BF16 has none: it is
#: the FP32 file that OpenVINO computes in bfloat16.
ONNX_FILES = {
    Precision.FP32: "model.onnx",
    Precision.FP16: "model.fp16.onnx",
    Precision.INT8: "model.int8.onnx",
}


def onnx_file(precision: Precision, target: Int8Target = Int8Target.CPU) -> str:
    """The file name of a precision's ONNX file, of INT8 for a target; BadInput for BF16."""
    if precision is Precision.BF16:
        raise BadInput(
            "bf16 has no file of its own: it is model.onnx compiled by OpenVINO in bfloat16; "
            "use fp32, fp16 or int8 here"
        )
    if precision is Precision.INT8 and target is not Int8Target.CPU:
        return f"model.int8.{target}.onnx"
    return ONNX_FILES[precision]


def judged_form(file: str, precision: Precision | None, fast_decode: bool = False) -> str:
    """The key of a verdict: a file's name, and how it was computed and its images were decoded."""
    form = f"{file}.{precision}" if precision is Precision.BF16 else file
    return f"{form}.fast-decode" if fast_decode else form


def check_model_name(name: str) -> None:
    """Raise ValueError unless a name can be a folder and a Triton model beside others' steps."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            f"name {name!r} may hold letters, digits, '_', '.' and '-' only, begins with a letter "
            "or a digit, and has at most 200 characters"
        )
    if name.endswith(tuple(f"_{step}" for step in STEPS)):
        raise ValueError(f"name {name!r} may not end like a step: _{', _'.join(STEPS)}")
