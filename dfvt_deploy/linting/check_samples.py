"""Warm-up samples and label files."""

import math
import struct
from functools import partial
from pathlib import Path
from typing import Any

from .reading import ModelFolder, dims_fit, dims_text, enum_name
from .rules import Finding, Findings

#: Bytes of one element by data type; texts have no fixed size.
_SIZES = {"TYPE_BOOL": 1} | {
    f"TYPE_{kind}{bits}": bits // 8
    for kind, widths in {"UINT": (8, 16, 32, 64), "FP": (16, 32, 64), "BF": (16,)}.items()
    for bits in widths
}
_SIZES |= {name.replace("UINT", "INT"): size for name, size in _SIZES.items()}


def check_samples(model: ModelFolder) -> Findings:
    """The warm-up and the labels of one model."""
    for number, sample in enumerate(model.config.model_warmup):
        yield from _sample(model, f"model_warmup[{number}]", sample)
    for number, tensor in enumerate(model.config.output):
        if tensor.label_filename:
            yield from _labels(model, f"output[{number}].label_filename", tensor)


def _sample(model: ModelFolder, where: str, sample: Any) -> Findings:
    config = model.config
    if sample.batch_size > max(config.max_batch_size, 1):
        problem = f"batch_size {sample.batch_size} is above max_batch_size {config.max_batch_size}"
        yield model.at("warmup", f"{where}.batch_size", problem, "write a batch that is allowed")
    tensors = {tensor.name: tensor for tensor in config.input}
    missing = [n for n, t in tensors.items() if n not in sample.inputs and not t.optional]
    if missing:
        problem = f"the sample has no {', '.join(missing)}"
        yield model.at("warmup", where, problem, "give every input of the model")
    for name, given in sample.inputs.items():
        field = f"{where}.inputs[{name}]"
        if name in tensors:
            yield from _sample_tensor(model, field, sample, given, tensors[name])
        else:
            problem = f"the model has no input {name!r}"
            yield model.at("warmup", field, problem, "name one of the model's inputs")


def _sample_tensor(model: ModelFolder, field: str, sample: Any, given: Any, own: Any) -> Findings:
    at, type_name = partial(model.at, "warmup"), enum_name(given, "data_type")
    if given.data_type != own.data_type:
        wanted_type = enum_name(own, "data_type")
        problem = f"{own.name!r} is {type_name} here, {wanted_type} in the model"
        yield at(f"{field}.data_type", problem, "write the model's type")
    dims, wanted = list(given.dims), list(own.dims)
    if not dims_fit(dims, wanted):
        problem = f"dims {dims_text(dims)} do not fit {dims_text(wanted)} of the model"
        yield at(f"{field}.dims", problem, "write dims that the model takes")
    if any(d < 1 for d in dims):
        problem = f"dims {dims_text(dims)} are not all above 0"
        yield at(f"{field}.dims", problem, "write the sizes of a real request")
        return
    kind = given.WhichOneof("input_data_type")
    if kind is None:
        fix = "write zero_data: true, random_data: true or an input_data_file"
        yield at(field, "the sample says nothing of its data", fix)
    if type_name == "TYPE_STRING" and kind == "random_data":
        fix = "give an input_data_file, or zero_data"
        yield at(field, "random data of texts are empty texts", fix)
    if kind == "input_data_file":
        file = model.path / "warmup" / given.input_data_file
        if file.is_file():
            yield from _data_file(file, type_name, math.prod(dims) * max(sample.batch_size, 1))
        else:
            fix = "add the file, in the folder warmup of the model"
            yield Finding("warmup-file", file, "the file is missing", fix)


def _data_file(file: Path, type_name: str, count: int) -> Findings:
    size = file.stat().st_size
    if type_name in _SIZES:
        if size != (expected := count * _SIZES[type_name]):
            problem = f"it has {size:,} bytes, {count:,} elements of {type_name} take {expected:,}"
            yield Finding("warmup-file", file, problem, "write the data again")
        return
    found, place = 0, 0
    with file.open("rb") as data:
        while length := data.read(4):
            if len(length) < 4 or place + 4 + struct.unpack("<I", length)[0] > size:
                problem = f"the text at byte {place:,} is cut off"
                fix = "write each text after its length, 4 bytes, little-endian"
                yield Finding("warmup-file", file, problem, fix)
                return
            place += 4 + struct.unpack("<I", length)[0]
            data.seek(place)
            found += 1
    if found != count:
        problem = f"it holds {found} texts, the sample takes {count}"
        yield Finding("warmup-file", file, problem, "write as many texts as the dims say")


def _labels(model: ModelFolder, field: str, tensor: Any) -> Findings:
    file = model.path / tensor.label_filename
    if not file.is_file():
        fix = "add the file to the model's folder, or remove label_filename"
        yield model.at("labels", field, f"{tensor.label_filename} is missing", fix)
        return
    lines = file.read_bytes().rstrip(b"\n").count(b"\n") + 1 if file.stat().st_size else 0
    classes = math.prod(tensor.dims) if tensor.dims and min(tensor.dims) > 0 else 0
    if classes and lines != classes:
        problem = f"{tensor.label_filename} has {lines} lines, {tensor.name!r} has {classes}"
        yield model.at("labels", field, problem, "write one line for each class")
