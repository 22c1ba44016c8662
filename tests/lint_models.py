"""Models of lint's corpus: a config and files in one folder, written in a line or two."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

from onnx import TensorProto, helper

MODEL_PY = """\
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(r, "x").as_numpy())]
            )
            for r in requests
        ]
"""

IO = """
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
"""

WARMUP = (
    'model_warmup {{ name: "one" batch_size: {batch} inputs {{ key: "{key}" value {{ {v} }} }} }}'
)
GOOD_WARMUP = WARMUP.format(batch=1, key="x", v="data_type: TYPE_FP32 dims: [ 4 ] zero_data: true")
CPU = "instance_group { kind: KIND_CPU count: 1 }\n"


def network(shape=("n", 4), dtype=TensorProto.FLOAT, opset=17, ir=8, domain="") -> bytes:
    """An ONNX file that gives its input `x` back as `y`; `domain` is that of its operator."""
    values = [helper.make_tensor_value_info(name, dtype, list(shape)) for name in "xy"]
    node = helper.make_node("Identity", ["x"], ["y"], domain=domain)
    graph = helper.make_graph([node], "identity", values[:1], values[1:])
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(domain, 1)] * bool(domain)
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir).SerializeToString()


@dataclass(frozen=True)
class Case:
    """One model folder. `files` are its other files by path within the folder; None is a folder."""

    config: str | None
    rule: str | None = None
    loads: bool | None = False
    files: dict[str, bytes | None] = field(default_factory=dict)


def python(body: str = "", rule=None, loads=..., batch: int = 8, io: str = IO, files=None) -> Case:
    config = f'backend: "python"\nmax_batch_size: {batch}\n{io}{CPU}{body}'
    files = {"1/model.py": MODEL_PY.encode()} if files is None else files
    return Case(config, rule, rule is None if loads is ... else loads, files)


def onnx_case(
    body: str = "", rule=None, loads=..., batch: int = 8, io: str = IO, model=None, files=None
) -> Case:
    config = f'backend: "onnxruntime"\nmax_batch_size: {batch}\n{io}{CPU}{body}'
    files = {"1/model.onnx": network() if model is None else model} if files is None else files
    return Case(config, rule, rule is None if loads is ... else loads, files)


def ensemble(steps: str, rule=None, loads=..., batch: int = 8, io: str = IO, body="") -> Case:
    config = (
        f'platform: "ensemble"\nmax_batch_size: {batch}\n{io}{body}'
        f"ensemble_scheduling {{ {steps} }}\n"
    )
    return Case(config, rule, rule is None if loads is ... else loads, {"1": None})


def step(model: str, taken: dict[str, str], given: dict[str, str], version: int | None = -1) -> str:
    maps = [f'input_map {{ key: "{k}" value: "{v}" }}' for k, v in taken.items()]
    maps += [f'output_map {{ key: "{k}" value: "{v}" }}' for k, v in given.items()]
    number = "" if version is None else f"model_version: {version}"
    return f'step {{ model_name: "{model}" {number} {" ".join(maps)} }}'


def texts(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def io(x="dims: [ 4 ]", y="dims: [ 4 ]", x_type="TYPE_FP32", y_type="TYPE_FP32", x_name="x") -> str:
    return (
        f'input {{ name: "{x_name}" data_type: {x_type} {x} }}\n'
        f'output {{ name: "y" data_type: {y_type} {y} }}\n'
    )


def write_case(case: Case, folder: Path) -> Path:
    """Write one model folder."""
    folder.mkdir(parents=True)
    if case.config is not None:
        (folder / "config.pbtxt").write_text(case.config)
    for name, content in case.files.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
