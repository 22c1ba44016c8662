"""config.pbtxt of the four models of one exported model, as protobuf messages.

Field by field: https://docs.nvidia.com/deeplearning/triton-inference-server (model
configuration); the parameters of a backend are in the README of the backend.
"""

import json
from collections.abc import Iterable
from typing import Any

from ..errors import MissingDependency
from ..manifest import TensorSpec
from .backends import add_parameters, backend_of
from .layout import warmup_file
from .options import PopulateOptions
from .served_model import ServedModel, largest_batch
from .tasks import Answer

try:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as schema
except ImportError:
    raise MissingDependency("tritonclient", "client") from None

_DTYPES = {
    "uint8": schema.TYPE_UINT8,
    "int32": schema.TYPE_INT32,
    "int64": schema.TYPE_INT64,
    "float32": schema.TYPE_FP32,
    "bytes": schema.TYPE_STRING,
    "string": schema.TYPE_STRING,
}

#: The input of the preprocess step and of the ensemble.
_IMAGE = TensorSpec(name="image", dtype="bytes", shape=("batch", 1))


def configs(model: ServedModel) -> list[schema.ModelConfig]:
    """The configs of the three steps and of the ensemble."""
    return [
        _preprocess_config(model),
        _network_config(model),
        _postprocess_config(model),
        _ensemble_config(model),
    ]


def _network_config(model: ServedModel) -> schema.ModelConfig:
    """`<name>_network`: the exported file or its plans, also callable directly with tensors."""
    manifest, options, files = model.manifest, model.options, model.files
    config = _model(model, "network")
    config.backend = options.chosen_backend
    config.default_model_filename = files.default
    config.cc_model_filenames.update(files.by_capability)
    _add_tensors(config.input, manifest.inputs)
    _add_tensors(config.output, manifest.outputs)
    config.dynamic_batching.max_queue_delay_microseconds = options.queue_delay_us or 0
    _bound_queue(config, options)
    usual = model.task.instances if options.chosen_device == "cpu" else 1
    _add_instances(config, options.chosen_device, options.instances or usual)
    backend_of(options.chosen_backend).configure(config, model)
    warmup = config.model_warmup.add(name="one", batch_size=1)
    for spec in manifest.inputs:
        free = iter(files.warmup_size)
        dims = [dim if dim > 0 else next(free) for dim in _dims(spec)]
        tensor = schema.ModelWarmup.Input(data_type=_DTYPES[spec.dtype], dims=dims, zero_data=True)
        warmup.inputs[spec.name].CopyFrom(tensor)
    return config


def _preprocess_config(model: ServedModel) -> schema.ModelConfig:
    """`<name>_preprocess`: encoded images to tensors."""
    manifest, options = model.manifest, model.options
    config = _python_model(model, "preprocess", options.decoders)
    _add_tensors(config.input, [_IMAGE])
    _add_tensors(config.output, model.prepared)
    canvas = manifest.preprocessing.canvas
    add_parameters(
        config,
        task=manifest.task,
        input=manifest.input_kind,
        options=json.dumps({"canvas": canvas} if canvas else {}),
        max_bytes=options.max_bytes,
        max_pixels=options.max_pixels,
        **({"fast_decode": True} if options.fast_decode else {}),
    )
    file = warmup_file(model.version)
    image = schema.ModelWarmup.Input(data_type=schema.TYPE_STRING, dims=[1], input_data_file=file)
    config.model_warmup.add(name="one", batch_size=1, inputs={"image": image})
    return config


def _postprocess_config(model: ServedModel) -> schema.ModelConfig:
    """`<name>_postprocess`: the network's outputs to the answers."""
    config = _python_model(model, "postprocess", 1)
    _add_tensors(config.input, model.awaited)
    _add_tensors(config.output, model.answers)
    add_parameters(
        config,
        task=model.manifest.task,
        options=json.dumps(model.answer_options),
        on_request=json.dumps(model.task.on_request),
    )
    return config


def _ensemble_config(model: ServedModel) -> schema.ModelConfig:
    """`<name>`: image in, answers out, through this version of each step."""
    name = model.manifest.name
    config = _model(model)
    config.platform = "ensemble"
    _add_tensors(config.input, [_IMAGE])
    _add_tensors(config.output, model.answers)
    # A tensor has one name in an ensemble, and an answer may be called as the network's output is.
    made = {spec.name: spec.name for spec in model.prepared}
    from_network = {name: f"network_{name}" for name in model.task.network_outputs}
    awaited = {spec.name: {**made, **from_network}[spec.name] for spec in model.awaited}
    always = [s.name for s in model.answers if s.name not in model.task.on_request]
    steps = [
        ("preprocess", {"image": "image"}, made),
        ("network", {spec.name: made[spec.name] for spec in model.manifest.inputs}, from_network),
        ("postprocess", awaited, {name: name for name in always}),
        # Triton leaves out a step whose outputs no request asks for, but never a single output.
        *(("postprocess", awaited, {name: name}) for name in model.task.on_request),
    ]
    for step, taken, given in steps:
        entry = config.ensemble_scheduling.step.add(
            model_name=f"{name}_{step}", model_version=model.version
        )
        entry.input_map.update(taken)
        entry.output_map.update(given)
    return config


def to_text(config: schema.ModelConfig) -> str:
    """The text of a config.pbtxt."""
    return text_format.MessageToString(config)


def from_text(text: str) -> schema.ModelConfig:
    """Parse a config.pbtxt; raises `google.protobuf.text_format.ParseError`."""
    return text_format.Parse(text, schema.ModelConfig())


def _model(model: ServedModel, step: str = "") -> schema.ModelConfig:
    """What all four configs have; only this version is loaded."""
    config = schema.ModelConfig(
        name=f"{model.manifest.name}_{step}" if step else model.manifest.name,
        max_batch_size=largest_batch(model.manifest, model.options),
    )
    config.version_policy.specific.versions.append(model.version)
    return config


def _python_model(model: ServedModel, step: str, instances: int) -> schema.ModelConfig:
    config = _model(model, step)
    config.backend = "python"
    config.default_model_filename = "model.py"
    # Never several requests as one: each goes to the first process that is free.
    config.dynamic_batching.preferred_batch_size.append(1)
    _bound_queue(config, model.options)
    _add_instances(config, "cpu", instances)
    return config


def _bound_queue(config: schema.ModelConfig, options: PopulateOptions) -> None:
    """Refuse requests beyond the number that may wait, and those that wait too long."""
    policy = config.dynamic_batching.default_queue_policy
    policy.max_queue_size = options.queue_size
    policy.default_timeout_microseconds = round(options.queue_timeout * 1e6)
    policy.allow_timeout_override = True


def _add_instances(config: schema.ModelConfig, device: str, count: int) -> None:
    kind = schema.ModelInstanceGroup.Kind.Value(f"KIND_{device.upper()}")
    config.instance_group.add(kind=kind, count=count)


def _dims(spec: TensorSpec | Answer) -> list[int]:
    """Dimensions without the batch, which Triton counts separately; symbolic ones are -1."""
    return [dim if isinstance(dim, int) else -1 for dim in spec.shape[1:]]


def _add_tensors(tensors: Any, specs: Iterable[TensorSpec | Answer]) -> None:
    """Add inputs or outputs to those of a config."""
    for spec in specs:
        tensors.add(name=spec.name, data_type=_DTYPES[spec.dtype], dims=_dims(spec))
