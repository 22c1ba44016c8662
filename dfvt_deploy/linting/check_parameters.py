"""Parameters, execution accelerators and threads: what a backend reads, ignores or refuses."""

import re
from collections.abc import Mapping

from ..text_files import near
from .reading import ModelFolder
from .rules import Findings

_ANY, _WHOLE, _SWITCH = r".*", r"-?\d+", r"(?i)true|false|0|1"

#: The parameters that backends read, and the values that these take; all others they ignore. A
#: name that ends with a dot stands for all that begin with it.
KNOWN_PARAMETERS: Mapping[str, Mapping[str, str]] = {
    "onnxruntime": {
        "intra_op_thread_count": _WHOLE,
        "inter_op_thread_count": _WHOLE,
        "execution_mode": r"0|1",
        "enable_mem_arena": _SWITCH,
        "enable_mem_pattern": _SWITCH,
        "memory.enable_memory_arena_shrinkage": _ANY,
        "default_max_batch_size": _WHOLE,
        "cudnn_conv_algo_search": r"[0-2]",
        "gpu_mem_limit": r"\d+",
        "arena_extend_strategy": r"0|1",
        "do_copy_in_default_stream": _SWITCH,
        "session.": _ANY,
        "optimization.": _ANY,
        "ep.": _ANY,
        "metadata": _ANY,  # no parameter: clients of Ultralytics read it from the config
    },
    "openvino": dict.fromkeys(
        (
            *("PERFORMANCE_HINT", "NUM_STREAMS", "HINT_BF16", "SKIP_OV_DYNAMIC_BATCHSIZE"),
            *("ENABLE_BATCH_PADDING", "RESHAPE_IO_LAYERS", "TARGET_DEVICE"),
        ),
        _ANY,
    )
    | dict.fromkeys(("INFERENCE_NUM_THREADS", "COMPILATION_NUM_THREADS"), _WHOLE),
    "tensorrt": {"execution_context_allocation_strategy": _ANY, "version_compatible": _ANY},
    "python": {"EXECUTION_ENV_PATH": _ANY, "FORCE_CPU_ONLY_INPUT_TENSORS": r"(?i)yes|no"},
    "pytorch": dict.fromkeys(
        (
            *("DISABLE_OPTIMIZED_EXECUTION", "INFERENCE_MODE", "DISABLE_CUDNN"),
            *("ENABLE_WEIGHT_SHARING", "ENABLE_CACHE_CLEANING", "ENABLE_TENSOR_FUSER"),
            *("ENABLE_JIT_EXECUTOR", "ENABLE_JIT_PROFILING"),
        ),
        _SWITCH,
    )
    | dict.fromkeys(("INTER_OP_THREAD_COUNT", "INTRA_OP_THREAD_COUNT"), _WHOLE),
}

#: Backends whose models may read other parameters: only near misses are told.
_OWN_PARAMETERS = ("python", "pytorch")

_ACCELERATORS = {
    ("onnxruntime", "gpu"): ("tensorrt", "cuda"),
    ("onnxruntime", "cpu"): ("openvino",),
    ("tensorflow", "gpu"): ("tensorrt", "auto_mixed_precision", "gpu_io"),
}

_REFUSING = ("onnxruntime", "tensorflow")

#: Options of onnxruntime's TensorRT accelerator, which refuses others. Not in the list: those that
#: begin with `trt_`, of which each release has more.
_TENSORRT_OPTIONS = {
    "precision_mode": r"FP32|FP16|INT8",
    "max_workspace_size_bytes": r"\d+",
    "int8_calibration_table_name": _ANY,
    "int8_use_native_calibration_table": _SWITCH,
}


def check_parameters(model: ModelFolder) -> Findings:
    """Parameters, accelerators and CUDA graphs of one model."""
    known = KNOWN_PARAMETERS.get(model.backend, {})
    for name, entry in model.config.parameters.items():
        field, value = f"parameters[{name}]", entry.string_value
        key = next((k for k in known if name == k or (k[-1] == "." and name.startswith(k))), None)
        if key is not None:
            if not re.fullmatch(known[key], value):
                takes = f"the {model.backend} backend takes {_said(known[key])}"
                problem = f"{name} is {value!r}, {takes}"
                yield model.at("parameter-value", field, problem, "write one of these in quotes")
        elif known and model.backend not in _OWN_PARAMETERS:
            problem = f"the {model.backend} backend has no parameter {name!r} and ignores it"
            yield model.at("parameter", field, problem, f"remove it{near(name, known)}")
        elif hint := near(name.upper(), known):
            problem = f"{name!r} is not a parameter of the {model.backend} backend"
            yield model.at("parameter", field, problem, f"check its name{hint}")
    yield from _accelerators(model)
    yield from _graphs(model)


def _said(pattern: str) -> str:
    """A pattern of `KNOWN_PARAMETERS` in words."""
    if pattern in (_WHOLE, r"\d+"):
        return "a whole number"
    return pattern.removeprefix("(?i)").replace("|", ", ").replace("[0-2]", "0, 1, 2")


def _accelerators(model: ModelFolder) -> Findings:
    accelerators = model.config.optimization.execution_accelerators
    for device in ("gpu", "cpu"):
        known = _ACCELERATORS.get((model.backend, device), ())
        for number, entry in enumerate(getattr(accelerators, f"{device}_execution_accelerator")):
            field = f"optimization.execution_accelerators.{device}_execution_accelerator[{number}]"
            if entry.name not in known:
                # Two backends refuse an accelerator that they do not know, the others read none.
                rule = "accelerator" if model.backend in _REFUSING else "parameter"
                problem = f"{entry.name!r} is no {device} accelerator of {model.backend}"
                yield model.at(rule, field, problem, f"remove it{near(entry.name, known)}")
            if (model.backend, entry.name) != ("onnxruntime", "tensorrt"):
                continue
            for name, value in entry.parameters.items():
                pattern = _TENSORRT_OPTIONS.get(name, _ANY if name.startswith("trt_") else "")
                if not re.fullmatch(pattern, value):
                    problem = f"the TensorRT accelerator takes no {name} {value!r}"
                    takes = f"; {name} takes {_said(pattern)}" if pattern else ""
                    fix = f"remove it{takes or near(name, _TENSORRT_OPTIONS)}"
                    yield model.at("accelerator", f"{field}.parameters[{name}]", problem, fix)


def _graphs(model: ModelFolder) -> Findings:
    config = model.config
    if not config.optimization.cuda.graphs:
        return
    if model.backend != "tensorrt":
        problem = f"CUDA graphs are of the tensorrt backend, not of {model.backend}"
        yield model.at("cuda-graphs", "optimization.cuda", problem, "remove the setting")
    elif any(-1 in tensor.dims for tensor in config.input):
        problem = "a tensor's dims are free: a graph is recorded for one shape"
        fix = "write graph_spec blocks with the shapes that occur"
        if not config.optimization.cuda.graph_spec:
            yield model.at("cuda-graphs", "optimization.cuda", problem, fix)


def check_threads(model: ModelFolder, instances: int, cores: int) -> Findings:
    """Threads of all CPU instances against the cores: two instances may take turns on them all, the
    one at what the other's threads leave idle."""
    if model.backend != "onnxruntime" or not instances:
        return
    key = "intra_op_thread_count"
    text = model.config.parameters[key].string_value if key in model.config.parameters else "0"
    threads = (int(text) if re.fullmatch(_WHOLE, text) else 0) or cores
    if instances * threads > 2 * cores:
        problem = f"{instances} instances of {threads} threads share {cores} cores"
        most = max(2 * cores // instances, 1)
        fix = f"write intra_op_thread_count {most} or less, or fewer instances"
        yield model.at("threads-and-instances", f"parameters[{key}]", problem, fix)
