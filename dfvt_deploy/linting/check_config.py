"""The config's own values: what Triton's core refuses whatever the backend is."""

import difflib
from collections import Counter
from functools import partial
from typing import Any

from ..text_files import near
from .check_parameters import check_threads
from .reading import ENSEMBLE, PLATFORMS, ModelFolder, dims_text
from .rules import Findings

#: Backends of NVIDIA's images and of Triton's repositories.
_BACKENDS = (
    *dict.fromkeys(PLATFORMS.values()),
    *("ensemble", "openvino", "python", "dali", "fil", "vllm", "tensorrtllm", "identity", "repeat"),
    *("square", "sequence", "dyna_sequence", "implicit_state", "distributed_addsub"),
)

#: How people call backends, with the names that Triton looks for.
_SHORT_NAMES = {"onnx": "onnxruntime", "trt": "tensorrt", "torch": "pytorch", "tf": "tensorflow"}


def check_config(model: ModelFolder, cores: int, gpus: bool) -> Findings:
    """Everything about one readable config, for a machine with so many cores and GPUs or not."""
    config = model.config
    yield from _backend(model)
    if config.max_batch_size < 0:
        problem = f"max_batch_size is {config.max_batch_size}, the least is 0"
        yield model.at("max-batch-size", "max_batch_size", problem, "write 0 for no batching")
    yield from _tensors(model)
    if model.backend != ENSEMBLE:
        yield from _instances(model, cores, gpus)


def _backend(model: ModelFolder) -> Findings:
    name, platform = model.backend, model.config.platform
    fix = f'write backend: "onnxruntime", or one of {", ".join(_BACKENDS)}'
    if not name:
        what = "neither backend nor platform is set"
        if platform:
            what = f"platform {platform!r} is none that Triton knows{near(platform, PLATFORMS)}"
        yield model.at("backend-unknown", "platform", what, fix)
    elif name not in _BACKENDS:
        problem = f"the backend is {name!r}"
        hint = _SHORT_NAMES.get(name) or PLATFORMS.get(name)
        found = difflib.get_close_matches(name, _BACKENDS, n=1, cutoff=0.85)
        if hint or found:
            meant = f'write backend: "{hint or found[0]}"'
            yield model.at("backend-unknown", "backend", problem, meant)
        elif not list(model.path.rglob(f"libtriton_{name}.so")):
            fix = f"see that the server has libtriton_{name}.so in its backend folder"
            yield model.at("backend-custom", "backend", problem, fix)
    config = model.config
    if config.runtime and ("/" in config.runtime or not config.runtime.endswith((".py", ".so"))):
        problem = f"runtime {config.runtime!r} is no file of a backend's folder"
        fix = "remove it, or write a name such as model.py"
        yield model.at("backend-unknown", "runtime", problem, fix)
    known, expected = PLATFORMS.values(), PLATFORMS.get(config.platform)
    if config.platform == ENSEMBLE and config.backend:
        problem = f"an ensemble has the backend {config.backend!r}"
        yield model.at("platform-backend", "backend", problem, "remove the backend")
    elif config.backend in known and config.platform and expected != config.backend:
        problem = f"platform {config.platform!r} is not that of backend {config.backend!r}"
        yield model.at("platform-backend", "platform", problem, "remove the platform")


def _tensors(model: ModelFolder) -> Findings:
    for kind in ("input", "output"):
        tensors = getattr(model.config, kind)
        if not tensors and model.backend:
            # A model without a config has that told of it.
            rule = "config-completed" if model.completes else "no-tensors"
            if not model.completes or model.parsed.file.is_file():
                fix = f"write an {kind} block for each tensor"
                yield model.at(rule, "", f"the config has no {kind}", fix)
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                problem = f"{count} {kind}s are called {name!r}"
                yield model.at("tensor-name", f"{kind}[0].name", problem, "give each its own name")
        for number, tensor in enumerate(tensors):
            yield from _tensor(model, f"{kind}[{number}]", tensor)


def _tensor(model: ModelFolder, where: str, tensor: Any) -> Findings:
    if not tensor.name:
        yield model.at("tensor-name", where, "the tensor has no name", "write its name")
    if tensor.data_type == 0:
        fix = "write data_type, such as TYPE_FP32"
        yield model.at("data-type", where, f"{tensor.name!r} has no data_type", fix)
    dims = list(tensor.dims)
    if not dims:
        fix = "write dims; for a scalar write dims: [ 1 ] and reshape: { shape: [ ] }"
        yield model.at("dims", where, f"{tensor.name!r} has no dims", fix)
    if wrong := [dim for dim in dims if dim == 0 or dim < -1]:
        found = f"{tensor.name!r} has dims {dims_text(dims)}"
        problem = f"{found}: {wrong[0]} is neither -1 nor above 0"
        yield model.at("dims", f"{where}.dims", problem, "write -1 for a size that is free")
    if tensor.HasField("reshape"):
        yield from _reshape(model, where, dims, list(tensor.reshape.shape))
    for setting in ("is_shape_tensor", "is_non_linear_format_io"):
        if getattr(tensor, setting) and model.backend != "tensorrt":
            problem = f"{setting} is set, and the backend is {model.backend}"
            yield model.at("tensorrt-only", f"{where}.{setting}", problem, "remove it")
    # FORMAT_NONE is 0, FORMAT_NHWC and FORMAT_NCHW are above it; outputs have no format.
    if getattr(tensor, "format", 0) and len(dims) != 3:
        problem = f"a format is set and dims {dims_text(dims)} are {len(dims)}, not 3"
        fix = "remove format, or write height, width and channels"
        yield model.at("format-dims", f"{where}.format", problem, fix)


def _reshape(model: ModelFolder, where: str, dims: list[int], shape: list[int]) -> Findings:
    field = f"{where}.reshape"
    if not model.batched and not shape:
        problem = "an empty reshape needs a batch dimension, and max_batch_size is 0"
        yield model.at("reshape", field, problem, "set max_batch_size, or write the shape")
        return
    if _sizes_between(dims) != _sizes_between(shape):
        problem = f"dims {dims_text(dims)} and reshape {dims_text(shape)} differ in their elements"
        yield model.at("reshape", field, problem, "give both the same number of elements")


def _sizes_between(dims: list[int]) -> list[int]:
    """How many elements stand before, between and after the dimensions that are free."""
    sizes = [1]
    for dim in dims:
        if dim == -1:
            sizes.append(1)
        else:
            sizes[-1] *= dim
    return sizes


def _instances(model: ModelFolder, cores: int, has_gpus: bool) -> Findings:
    at, total = partial(model.at, "instance-group"), 0
    for number, group in enumerate(model.config.instance_group):
        where, gpus = f"instance_group[{number}]", list(group.gpus)
        kind = group.Kind.Name(group.kind)
        if group.count < 0:
            problem = f"count is {group.count}, the least is 1"
            yield at(f"{where}.count", problem, "write a count from 1")
        if gpus and kind in ("KIND_CPU", "KIND_MODEL"):
            problem = f"{kind} is set and GPUs {gpus} are named"
            yield at(f"{where}.gpus", problem, "write kind: KIND_GPU")
        if any(gpu < 0 for gpu in gpus):
            problem = f"GPUs {gpus} are named, the least is 0"
            yield at(f"{where}.gpus", problem, "write the numbers of GPUs")
        if group.profile and model.backend != "tensorrt":
            problem = f"profile is set, and the backend is {model.backend}"
            yield at(f"{where}.profile", problem, "remove it")
        for profile in group.profile:
            if not profile.isdigit():
                problem = f"profile {profile!r} is not the number of a profile"
                yield at(f"{where}.profile", problem, "write a number")
        if kind == "KIND_GPU" and not has_gpus:
            fix = "serve it on a machine with a GPU, or write KIND_CPU"
            yield model.at("gpu-missing", f"{where}.kind", "KIND_GPU is set", fix)
        if kind == "KIND_CPU":
            total += group.count or (2 if model.backend == "onnxruntime" else 1)
        if kind == "KIND_CPU" and not group.count and model.backend == "onnxruntime":
            fix = "write count: 1, or as many as intra_op_thread_count leaves cores for"
            problem = "no count is given: two instances start, each with a thread for every core"
            yield model.at("cpu-instances-implicit", where, problem, fix)
    yield from check_threads(model, total, cores)
