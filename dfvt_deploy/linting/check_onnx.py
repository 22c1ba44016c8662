"""ONNX files: versions, operators and weights against onnxruntime, tensors against the config."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from packaging.version import Version

from ..text_files import near
from .reading import ModelFolder, dims_text, enum_name, is_filled
from .rules import Finding, Findings

#: The first onnxruntime that loads an IR version and an opset of the default domain; older ones of
#: both load in all. Measured with the releases 1.15 to 1.28, see docs/lint.md.
FIRST_FOR_IR = {9: "1.15", 10: "1.18", 11: "1.23", 12: "1.24", 13: "1.24"}
FIRST_FOR_OPSET = dict(
    enumerate(("1.16", "1.17", "1.18", "1.21", "1.23", "1.24", "1.24", "1.25"), start=19)
)

#: The newest onnxruntime that was measured, and the newest opset whose operators are all listed.
_NEWEST = "1.28"
_LISTED = 20

#: Domains with operators of onnxruntime, and operators of the default one that onnx dropped.
_DOMAINS = (
    *("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"),
    *("com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental", "com.microsoft.dml"),
    *("com.ms.internal.nhwc", "org.pytorch.aten", "trt.plugins"),
)
_OLD = (
    *("Affine", "Crop", "DynamicSlice", "ImageScaler", "ParametricSoftplus", "Scale"),
    "ScaledTanh",
)


def check_onnx(model: ModelFolder, onnxruntime: str | None) -> Findings:
    """Every ONNX file that a model serves; its versions where the onnxruntime is known."""
    for file in model.model_files():
        if file.suffix != ".onnx" or not is_filled(file):
            continue
        try:
            network = onnx.load(file, load_external_data=False)
            if not network.HasField("graph"):
                raise ValueError("it has no graph")
        except Exception as error:  # protobuf's own, which changes with its versions
            problem = f"it is not an ONNX model: {str(error) or type(error).__name__}"
            yield Finding("onnx-file", file, problem, "copy or export it again")
            continue
        opset = max((o.version for o in network.opset_import if not o.domain), default=0)
        for what, number, table, known in (
            ("IR version", network.ir_version, FIRST_FOR_IR, onnx.IR_VERSION),
            ("opset", opset, FIRST_FOR_OPSET, onnx.defs.onnx_opset_version()),
        ):
            if problem := _version_problem(what, number, table, known, onnxruntime):
                yield Finding("onnx-version", file, problem, f"export with a lower {what}")
        if not model.config.model_operations.op_library_filename:
            yield from _operators(file, network, listed=opset <= _LISTED)
        yield from _external_data(file, network)
        yield from _tensors(model, file, network)
        floats = (t.data_type == onnx.TensorProto.FLOAT for t in network.graph.initializer)
        in_float32 = any(floats) and "HINT_BF16" not in model.config.parameters
        if model.backend == "openvino" and in_float32:
            problem = f"{file.name} has float32 weights, which OpenVINO computes with in bfloat16"
            fix = "validate it as bf16, or serve it with onnxruntime for float32"
            if any(node.op_type == "DequantizeLinear" for node in network.graph.node):
                problem = f"NVIDIA's server computes in bfloat16 what {file.name} leaves in float32"
                fix = "judge it there: validate --url HOST:PORT --served model.int8.openvino.onnx"
            yield model.at("openvino-precision", "backend", problem, fix)


def _version_problem(
    what: str, number: int, table: dict[int, str], known: int, onnxruntime: str | None
) -> str:
    newer = number > max(table)
    first = table[max(table)] if newer else table.get(number, "0")
    if onnxruntime and (newer or Version(first) > Version(onnxruntime)):
        least = f"after {_NEWEST}" if newer else f"{first} or later"
        return f"{what} {number} needs onnxruntime {least}, the target has {onnxruntime}"
    if number > max(*table, known):
        return f"{what} is {number}; onnx {onnx.__version__} ends at {known}"
    return ""


def _operators(file: Path, network: Any, *, listed: bool) -> Findings:
    local = {(function.domain, function.name) for function in network.functions}
    for domain, name in sorted({(n.domain, n.op_type) for n in network.graph.node} - local):
        standard = domain in ("", "ai.onnx") and listed
        if domain in _DOMAINS and (not standard or onnx.defs.has(name) or name in _OLD):
            continue
        problem = f"operator {name} of domain {domain or 'ai.onnx'!r} is none of onnxruntime's"
        fix = "export without it, or name its library in model_operations.op_library_filename"
        yield Finding("onnx-operator", file, problem, fix)


def _external_data(file: Path, network: Any) -> Findings:
    ends: dict[str, int] = {}
    for tensor in network.graph.initializer:
        entry = {pair.key: pair.value for pair in tensor.external_data}
        if name := entry.get("location"):
            places = (entry.get(key, "") for key in ("offset", "length"))
            end = sum(int(place) for place in places if place.isdecimal())
            ends[name] = max(end, ends.get(name, 0))
    for name, end in sorted(ends.items()):
        path, below = file.parent / name, file.parent.name
        if Path(name).is_absolute() or os.path.normpath(name).startswith(".."):
            problem = f"its weights are in {name}, and onnxruntime reads below {below} only"
            fix = "save the model with its weights beside it"
        elif not path.is_file():
            problem, fix = f"it needs {name}, which is missing", f"copy {name} beside {file.name}"
        elif (size := path.stat().st_size) < end:
            problem = f"it needs {end:,} bytes of {name}, which has {size:,}"
            fix = f"copy {name} again"
        else:
            continue
        yield Finding("external-data", file, problem, fix)


def _tensors(model: ModelFolder, file: Path, network: Any) -> Findings:
    """Names, types and dimensions of one ONNX file against the config."""
    weights = {tensor.name for tensor in network.graph.initializer}
    for kind, values in (("input", network.graph.input), ("output", network.graph.output)):
        own = {value.name: value for value in values if value.name not in weights}
        for name, value in own.items():
            if (what := value.type.WhichOneof("value")) not in ("tensor_type", None):
                problem = f"{kind} {name!r} of {file.name} is a {what.removesuffix('_type')}"
                fix = "export it as a tensor, as with ZipMap left out (zipmap=False)"
                yield model.at("onnx-type", kind, problem, fix)
        tensors = getattr(model.config, kind)
        for name, where in _added_by_triton(model.config, kind).items():
            if tensors and own.pop(name, None) is None:
                problem = f"{file.name} has no {kind} {name!r}, which Triton adds"
                yield model.at("onnx-tensors", where, problem, "write a name of the file")
        for number, tensor in enumerate(tensors):
            where = f"{kind}[{number}]"
            if tensor.name not in own:
                problem = f"{file.name} has no {kind} {tensor.name!r}; it has {', '.join(own)}"
                fix = f"write the file's name{near(tensor.name, own)}"
                yield model.at("onnx-tensors", where, problem, fix)
            else:
                value = own[tensor.name]
                value = _inferred(network, value, tensor) if kind == "output" else value
                yield from _tensor(model, where, tensor, value, file)
        missing = own.keys() - {tensor.name for tensor in tensors}
        if kind == "input" and tensors and missing:
            problem = f"{file.name} also has the inputs {', '.join(sorted(missing))}"
            yield model.at("onnx-tensors", "input[0]", problem, "write a block for each")


def _added_by_triton(config: Any, kind: str) -> dict[str, str]:
    """Tensors of the file that stand in no input or output block, with the field that has them."""
    found = {}
    sequences = config.sequence_batching
    for number, state in enumerate(sequences.state):
        name = state.input_name if kind == "input" else state.output_name
        found[name] = f"sequence_batching.state[{number}]"
    if kind == "input":
        for number, control in enumerate(sequences.control_input):
            found[control.name] = f"sequence_batching.control_input[{number}]"
        for number, batch in enumerate(config.batch_input):
            found.update(dict.fromkeys(batch.target_name, f"batch_input[{number}]"))
    return found


def _inferred(network: Any, value: Any, tensor: Any) -> Any:
    """An output as onnxruntime sees it, which works out dimensions that the file leaves free."""
    free = any(not dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])
    if not free or all(dim == -1 for dim in tensor.dims):
        return value
    try:
        inferred = onnx.shape_inference.infer_shapes(network, data_prop=True)
    except Exception:  # onnx's own, of a file that onnxruntime may load all the same
        return value
    return next(other for other in inferred.graph.output if other.name == value.name)


def _tensor(model: ModelFolder, where: str, tensor: Any, value: Any, file: Path) -> Findings:
    found = _type_name(value)
    wanted = enum_name(tensor, "data_type")
    if found and tensor.data_type and wanted != found:
        problem = f"{tensor.name!r} is {wanted} here and {found} in {file.name}"
        yield model.at("onnx-type", f"{where}.data_type", problem, f"write {found}")
    if not value.type.tensor_type.HasField("shape"):
        return
    shape = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
    dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
    field, config = f"{where}.dims", model.config
    # Outputs have to be free where the file's are; scalars are written as dims of 1.
    exact = where.startswith("output")
    if not model.batched:
        if not (_accepts(shape, dims, exact) or (not shape and set(dims) <= {1})):
            problem = f"dims {dims_text(dims)} do not fit {dims_text(shape)} of {file.name}"
            yield model.at("onnx-dims", field, problem, f"write {dims_text(shape)}")
        return
    if not shape or shape[0] != -1:
        batch = shape[0] if shape else "no batch"
        problem = f"{tensor.name!r} of {file.name} has a batch of {batch}, not a free one"
        fix = f"export with a dynamic batch, or write max_batch_size: 0 and dims {dims_text(shape)}"
        yield model.at("onnx-fixed-batch", "max_batch_size", problem, fix)
    elif len(dims) == len(shape) and _accepts(
        shape, [-1 if d in (1, config.max_batch_size) else d for d in dims[:1]] + dims[1:], exact
    ):
        problem = f"dims {dims_text(dims)} hold the batch, which max_batch_size adds"
        yield model.at("batch-dimension-twice", field, problem, f"write {dims_text(shape[1:])}")
    elif not _accepts(shape[1:], dims, exact):
        own = f"{dims_text(shape[1:])} of {file.name} (without its batch)"
        problem = f"dims {dims_text(dims)} do not fit {own}"
        yield model.at("onnx-dims", field, problem, f"write {dims_text(shape[1:])}")


def _accepts(shape: Sequence[int], dims: Sequence[int], exact: bool) -> bool:
    """Whether onnxruntime's backend takes dims for a shape of the file: a free dimension of an
    input takes any, a fixed one and an output's take themselves alone."""
    return len(shape) == len(dims) and all(
        own == dim or (own == -1 and not exact) for own, dim in zip(shape, dims, strict=True)
    )


def _type_name(value: Any) -> str:
    number = value.type.tensor_type.elem_type
    name = onnx.TensorProto.DataType.Name(number) if number else ""
    floats = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "DOUBLE": "FP64"}
    if name in floats:
        return f"TYPE_{floats[name]}"
    return f"TYPE_{name}" if name.startswith(("INT", "UINT", "STRING", "BOOL")) else ""
