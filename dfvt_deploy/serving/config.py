"""config.pbtxt of the four models of one task, as protobuf messages.

Field by field: https://docs.nvidia.com/deeplearning/triton-inference-server (model
configuration); the backends' own parameters in the README of each backend.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from ..artifact import Manifest, TensorSpec
from ..tasks.images import ImageLimits
from .tasks import SERVED_TASKS, ServedTask

#: File of the encoded image (4-byte length, then the bytes) that warms up preprocessing.
WARMUP_IMAGE = "sample.bytes"

#: Height and width that warm up a network of any size.
WARMUP_SIZE = 224, 224


@dataclass(frozen=True)
class Placement:
    """Where the steps run and how often.

    device: of the network. On `cpu` one instance uses all cores (an omitted count would mean two
        instances, each with a pool of all cores); on `gpu` there is one per GPU.
    preprocess_instances: processes that decode images; they bound the throughput of a fast GPU.
    threads: of one network instance on the CPU; 0 for all cores.
    queue_delay_us: how long the network waits for more images to fill a batch.
    cuda_graphs: record the TensorRT network at batch 1 and the powers of 2, which the batcher
        then prefers. For networks of fixed height and width.
    """

    device: Literal["cpu", "gpu"] = "cpu"
    network_instances: int = 1
    preprocess_instances: int = 2
    threads: int = 0
    queue_delay_us: int = 0
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("network_instances", 1, 1024),
            ("preprocess_instances", 1, 1024),
            ("threads", 0, 1024),
            ("queue_delay_us", 0, 10_000_000),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)} is outside {low}..{high}")


_DTYPES = {
    "uint8": schema.TYPE_UINT8,
    "int32": schema.TYPE_INT32,
    "int64": schema.TYPE_INT64,
    "float32": schema.TYPE_FP32,
    "bytes": schema.TYPE_STRING,
}


@dataclass(frozen=True)
class NetworkFiles:
    """What the network's backend serves, by file name.

    default: for every machine, or for GPUs not in `by_capability`; empty where those get none.
    by_capability: plans by the compute capability of the GPU they are for, as "9.0".
    warmup_size: height and width of the images that warm up a network of any size.
    """

    backend: Literal["onnxruntime", "tensorrt"]
    default: str
    by_capability: Mapping[str, str] = field(default_factory=dict)
    warmup_size: tuple[int, int] = WARMUP_SIZE


@dataclass(frozen=True)
class ServedModel:
    """A model as its configs describe it; `answer_options` are those of the task's `answers`."""

    manifest: Manifest
    max_batch_size: int
    answer_options: Mapping[str, Any]
    limits: ImageLimits
    placement: Placement

    @property
    def task(self) -> ServedTask:
        return SERVED_TASKS[self.manifest.task]

    @property
    def prepared(self) -> tuple[TensorSpec, ...]:
        """What the preprocess step makes."""
        return (*self.manifest.inputs, *self.task.carried)

    @property
    def awaited(self) -> tuple[TensorSpec, ...]:
        """What the postprocess step takes: outputs of the network, and sizes beside it."""
        names = self.task.network_outputs
        outputs = tuple(spec for spec in self.manifest.outputs if spec.name in names)
        return (*outputs, *(spec for spec in self.prepared if spec.name != "images"))

    @property
    def answers(self) -> tuple[TensorSpec, ...]:
        return self.task.answers(self.answer_options)


def network_config(model: ServedModel, files: NetworkFiles) -> schema.ModelConfig:
    """`<name>_network`: the exported file or its plans, also callable directly with tensors."""
    manifest, placement, backend = model.manifest, model.placement, files.backend
    config = schema.ModelConfig(
        name=f"{manifest.name}_network",
        backend=backend,
        default_model_filename=files.default,
        cc_model_filenames=files.by_capability,
        max_batch_size=model.max_batch_size,
        input=[_input(spec) for spec in manifest.inputs],
        output=[_output(spec) for spec in manifest.outputs],
        dynamic_batching=schema.ModelDynamicBatching(
            max_queue_delay_microseconds=placement.queue_delay_us
        ),
    )
    _instances(config, placement.device, placement.network_instances)
    if backend == "onnxruntime" and placement.device == "cpu":
        _parameters(config, intra_op_thread_count=placement.threads, inter_op_thread_count=1)
    if backend == "onnxruntime" and not model.task.arena:
        _parameters(config, enable_mem_arena=0, enable_mem_pattern=0)
    if placement.cuda_graphs:
        _record_cuda_graphs(config)
    warmup = config.model_warmup.add(name="one", batch_size=1)
    for spec in manifest.inputs:
        tensor = warmup.inputs[spec.name]
        tensor.data_type = _DTYPES[spec.dtype]
        free = iter(files.warmup_size)
        tensor.dims.extend(dim if dim > 0 else next(free) for dim in _dims(spec))
        tensor.zero_data = True
    return config


def _record_cuda_graphs(config: schema.ModelConfig) -> None:
    """Graphs hold one batch size each; batches of other sizes run without."""
    powers = [2**n for n in range(1, config.max_batch_size.bit_length())]
    sizes = sorted({1, *powers, config.max_batch_size})
    config.dynamic_batching.preferred_batch_size.extend(sizes)
    config.optimization.cuda.graphs = True
    for size in sizes:
        graph = config.optimization.cuda.graph_spec.add(batch_size=size)
        for tensor in config.input:
            graph.input[tensor.name].dim.extend(tensor.dims)


def preprocess_config(model: ServedModel) -> schema.ModelConfig:
    """`<name>_preprocess`: encoded images to tensors. Not batched by the server: an image is
    decoded as soon as a process is free."""
    manifest = model.manifest
    config = _python_model(model, "preprocess", model.placement.preprocess_instances)
    config.input.append(_image_input())
    config.output.extend(_output(spec) for spec in model.prepared)
    canvas = manifest.preprocessing.canvas
    _parameters(
        config,
        task=manifest.task,
        input=manifest.input_kind,
        options=json.dumps({"canvas": canvas} if canvas else {}),
        max_bytes=model.limits.max_bytes,
        max_pixels=model.limits.max_pixels,
    )
    warmup = config.model_warmup.add(name="one", batch_size=1)
    tensor = warmup.inputs["image"]
    tensor.data_type = schema.TYPE_STRING
    tensor.dims.append(1)
    tensor.input_data_file = WARMUP_IMAGE
    return config


def postprocess_config(model: ServedModel) -> schema.ModelConfig:
    """`<name>_postprocess`: the network's outputs to the answers."""
    config = _python_model(model, "postprocess", 1)
    config.input.extend(_input(spec) for spec in model.awaited)
    config.output.extend(_output(spec) for spec in model.answers)
    _parameters(config, task=model.manifest.task, options=json.dumps(dict(model.answer_options)))
    return config


def ensemble_config(model: ServedModel) -> schema.ModelConfig:
    """`<name>`: image in, answers out, through the newest version of each step."""
    name = model.manifest.name
    config = schema.ModelConfig(
        name=name,
        platform="ensemble",
        max_batch_size=model.max_batch_size,
        input=[_image_input()],
        output=[_output(spec) for spec in model.answers],
    )
    # A tensor has one name in an ensemble, and an answer may be called as the network's output is.
    made = {spec.name: spec.name for spec in model.prepared}
    from_network = {name: f"network_{name}" for name in model.task.network_outputs}
    answers = {spec.name: spec.name for spec in model.answers}
    steps = (
        ("preprocess", {"image": "image"}, made),
        ("network", {spec.name: made[spec.name] for spec in model.manifest.inputs}, from_network),
        ("postprocess", {s.name: {**made, **from_network}[s.name] for s in model.awaited}, answers),
    )
    for step, taken, given in steps:
        entry = config.ensemble_scheduling.step.add(model_name=f"{name}_{step}", model_version=-1)
        entry.input_map.update(taken)
        entry.output_map.update(given)
    return config


def to_text(config: schema.ModelConfig) -> str:
    """The text of a config.pbtxt."""
    return text_format.MessageToString(config)


def from_text(text: str) -> schema.ModelConfig:
    """Parse a config.pbtxt; raises `google.protobuf.text_format.ParseError`."""
    return text_format.Parse(text, schema.ModelConfig())


def _python_model(model: ServedModel, step: str, instances: int) -> schema.ModelConfig:
    config = schema.ModelConfig(
        name=f"{model.manifest.name}_{step}",
        backend="python",
        default_model_filename="model.py",
        max_batch_size=model.max_batch_size,
    )
    _instances(config, "cpu", instances)
    return config


def _instances(config: schema.ModelConfig, device: str, count: int) -> None:
    kind = (
        schema.ModelInstanceGroup.KIND_GPU
        if device == "gpu"
        else schema.ModelInstanceGroup.KIND_CPU
    )
    config.instance_group.add(kind=kind, count=count)


def _parameters(config: schema.ModelConfig, **parameters: object) -> None:
    for key, value in parameters.items():
        config.parameters[key].string_value = str(value)


def _image_input() -> schema.ModelInput:
    return schema.ModelInput(name="image", data_type=schema.TYPE_STRING, dims=[1])


def _dims(spec: TensorSpec) -> list[int]:
    """Dimensions without the batch, which Triton counts separately; symbolic ones are -1."""
    return [dim if isinstance(dim, int) else -1 for dim in spec.shape[1:]]


def _input(spec: TensorSpec) -> schema.ModelInput:
    return schema.ModelInput(name=spec.name, data_type=_DTYPES[spec.dtype], dims=_dims(spec))


def _output(spec: TensorSpec) -> schema.ModelOutput:
    return schema.ModelOutput(name=spec.name, data_type=_DTYPES[spec.dtype], dims=_dims(spec))
