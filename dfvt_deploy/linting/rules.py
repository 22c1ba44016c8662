"""Every rule of `lint`: its id, how bad it is, and what it finds.

docs/lint.md explains each, with lines that it finds and lines that are right.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..types import StringEnum


class Severity(StringEnum):
    """`ERROR`: the server refuses the model or answers wrongly. `WARNING`: it works, but is slower,
    less safe or otherwise not what was meant."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One problem, by the id of its rule: what is wrong, with the value and the limit, and what to
    do. `line` counts from 1, and `field` is one of the config, such as `input[0].dims`; 0 and empty
    where none is meant."""

    rule: str
    path: Path
    problem: str
    fix: str
    line: int = 0
    field: str = ""

    @property
    def severity(self) -> Severity:
        return RULES[self.rule].severity


Findings: TypeAlias = Iterator[Finding]


ERROR, WARNING = Severity.ERROR, Severity.WARNING


@dataclass(frozen=True)
class Rule:
    """`summary` is a sentence that says what is wrong where the rule fires."""

    severity: Severity
    summary: str


RULES: Mapping[str, Rule] = {
    # config.pbtxt as text
    "config-syntax": Rule(ERROR, "config.pbtxt is not protobuf text."),
    "unknown-field": Rule(ERROR, "A field does not exist in Triton's model configuration."),
    "field-twice": Rule(ERROR, "A field that holds one value is set twice."),
    "field-value": Rule(ERROR, "A field's value is of another type or not one of its words."),
    # folders and files
    "no-config": Rule(ERROR, "A folder of the repository has no config.pbtxt."),
    "config-completed": Rule(WARNING, "Triton asks the model for what the config lacks."),
    "name-mismatch": Rule(ERROR, "The config's name is not that of its folder."),
    "no-version": Rule(ERROR, "No version folder is there that the version policy would load."),
    "version-folder": Rule(WARNING, "A numbered folder is not taken for a version."),
    "version-missing": Rule(ERROR, "The version policy names a version that is not there."),
    "model-file": Rule(ERROR, "The file that the backend loads is missing, empty or cut off."),
    "not-a-model": Rule(ERROR, "A folder of the repository is not a model and stops the start."),
    "shared-library": Rule(WARNING, "A shared library lies in the repository and may be loaded."),
    "link-outside": Rule(WARNING, "A link leads out of the repository."),
    "writable-by-others": Rule(WARNING, "Everybody on the machine may change a file."),
    "git-lfs-pointer": Rule(ERROR, "A model file is a Git LFS pointer, not the file itself."),
    # the config itself
    "backend-unknown": Rule(ERROR, "Neither backend nor platform names what loads the model."),
    "backend-custom": Rule(WARNING, "The backend is none of those that NVIDIA's images have."),
    "platform-backend": Rule(ERROR, "The platform and the backend do not belong together."),
    "max-batch-size": Rule(ERROR, "max_batch_size is negative."),
    "dims": Rule(ERROR, "The dims of a tensor are missing, zero or below -1."),
    "data-type": Rule(ERROR, "A tensor has no data type."),
    "tensor-name": Rule(ERROR, "A tensor has no name, or two have the same."),
    "no-tensors": Rule(ERROR, "The config has no input or no output."),
    "reshape": Rule(ERROR, "A reshape does not hold as many elements as the dims."),
    "tensorrt-only": Rule(ERROR, "A tensor has a setting that only TensorRT's plans know."),
    "batch-io": Rule(ERROR, "A batch input or output does not fit the model's tensors."),
    "format-dims": Rule(ERROR, "FORMAT_NCHW or FORMAT_NHWC is set on a tensor without 3 dims."),
    "dynamic-batching": Rule(ERROR, "The dynamic batcher's settings contradict each other."),
    "batching-without-batch": Rule(WARNING, "The dynamic batcher has nothing to batch."),
    "queue-policy": Rule(WARNING, "A queue's limits are not set or are without effect."),
    "sequence-batching": Rule(ERROR, "The sequence batcher's settings contradict the rest."),
    "schedulers": Rule(ERROR, "Two schedulers are set for one model."),
    "instance-group": Rule(ERROR, "An instance group's kind and settings contradict each other."),
    "gpu-missing": Rule(ERROR, "A model asks for a GPU and this machine has none."),
    "threads-and-instances": Rule(
        WARNING, "Instances and threads add up to more than twice the cores."
    ),
    "cpu-instances-implicit": Rule(WARNING, "Two CPU instances start because no count is given."),
    "parameter": Rule(WARNING, "A parameter is not known to the backend, which ignores it."),
    "parameter-value": Rule(ERROR, "A parameter has a value that the backend refuses."),
    "accelerator": Rule(ERROR, "The backend has no such execution accelerator or option of one."),
    "cuda-graphs": Rule(WARNING, "CUDA graphs are set where none can be recorded."),
    "warmup": Rule(ERROR, "A warm-up sample does not fit the model."),
    "warmup-file": Rule(ERROR, "A warm-up file is missing or has another size than its tensor."),
    "labels": Rule(ERROR, "A label file is missing or has another number of lines than classes."),
    "response-cache": Rule(
        ERROR, "The response cache is set for a model that it does not support."
    ),
    # model files
    "onnx-file": Rule(ERROR, "The ONNX file cannot be read."),
    "onnx-version": Rule(ERROR, "onnxruntime is too old for the ONNX file."),
    "onnx-operator": Rule(ERROR, "The ONNX file has an operator that onnxruntime does not know."),
    "onnx-tensors": Rule(ERROR, "The config's tensors are not those of the ONNX file."),
    "onnx-type": Rule(ERROR, "A tensor has another type in the config than in the ONNX file."),
    "onnx-dims": Rule(ERROR, "A tensor has other dimensions in the config than in the ONNX file."),
    "batch-dimension-twice": Rule(ERROR, "The dims repeat the batch dimension."),
    "onnx-fixed-batch": Rule(ERROR, "The ONNX file has a fixed batch, max_batch_size is not 0."),
    "external-data": Rule(ERROR, "A file with the ONNX file's weights is missing or cut off."),
    "plan-file": Rule(ERROR, "The plan is cut off, or something stands in front of it."),
    "plan-flavor": Rule(ERROR, "The plan is TensorRT-RTX's, which Triton's backend does not load."),
    "plan-version": Rule(ERROR, "The plan was built by another TensorRT than the target has."),
    "plan-profile": Rule(ERROR, "max_batch_size or the dims are outside the plan's profile."),
    "compute-capability": Rule(WARNING, "GPUs without a plan of their own get none."),
    "openvino-precision": Rule(WARNING, "OpenVINO computes a float32 file in bfloat16 by default."),
    "python-model": Rule(ERROR, "model.py has a syntax error or no TritonPythonModel."),
    # ensembles
    "ensemble-config": Rule(ERROR, "An ensemble has settings that only models with files have."),
    "ensemble-step": Rule(ERROR, "An ensemble's step names a model that is not there."),
    "ensemble-map": Rule(ERROR, "A step's tensor is not mapped, or is mapped to none of its own."),
    "ensemble-type": Rule(ERROR, "Two ends of an ensemble's tensor have other types."),
    "ensemble-shape": Rule(ERROR, "Two ends of an ensemble's tensor have other shapes."),
    "ensemble-flow": Rule(ERROR, "A tensor of an ensemble is never or twice made, or in a circle."),
    "ensemble-unused": Rule(ERROR, "A tensor of an ensemble is made and never used."),
    "ensemble-decoupled": Rule(ERROR, "A step joins the responses of two decoupled models."),
    "ensemble-batch": Rule(ERROR, "An ensemble takes larger batches than one of its steps."),
    # repositories of this package
    "manifest-hash": Rule(ERROR, "A file is not the one that was populated."),
    "versions-apart": Rule(ERROR, "The four models of one export have different newest versions."),
}
