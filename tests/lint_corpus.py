"""Model repositories that are broken in one way each, and good ones.

A case is a config with files; `rule` is the rule that must find it, None for a good model. `loads`
says whether a server without a GPU loads the model: a test asks the real one. None is for what the
embedded server's backends do not look at and NVIDIA's refuse, and for warm-up samples that end the
server of 24.10 at times.
"""

from pathlib import Path

from .lint_missed import MISSED
from .lint_models import (
    CPU,
    GOOD_WARMUP,
    IO,
    MODEL_PY,
    WARMUP,
    Case,
    ensemble,
    io,
    network,
    onnx_case,
    python,
    step,
    texts,
    write_case,
)

TEXT_IO = """
input { name: "x" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "y" data_type: TYPE_STRING dims: [ 1 ] }
"""
TEXT_WARMUP = WARMUP.format(
    batch=1, key="x", v='data_type: TYPE_STRING dims: [ 1 ] input_data_file: "one"'
)


CASES: dict[str, Case] = {
    # good ones, which other cases use as steps
    "good_python": python(),
    "good_python_named": Case(
        f"name: \"good_python_named\" # a comment\nbackend: 'python'\n{IO}{CPU}",
        None,
        True,
        {"1/model.py": MODEL_PY.encode()},
    ),
    "good_onnx": onnx_case(),
    "good_onnx_platform": Case(
        f'platform: "onnxruntime_onnx" max_batch_size: 4\n{IO}{CPU}',
        None,
        True,
        {"3/model.onnx": network(), "12/model.onnx": network()},
    ),
    "good_batching": python(
        "dynamic_batching { preferred_batch_size: [ 2, 4 ] max_queue_delay_microseconds: 100 }"
    ),
    "good_reshape": python(io=io(x="dims: [ 4 ] reshape: { shape: [ 2, 2 ] }")),
    "good_scalar": python(
        io=io(x="dims: [ 1 ] reshape { shape: [] }", y="dims: [ 1 ] reshape { shape: [] }")
    ),
    "good_warmup": python(GOOD_WARMUP),
    "good_text_warmup": python(
        TEXT_WARMUP,
        io=TEXT_IO,
        files={"1/model.py": MODEL_PY.encode(), "warmup/one": texts(b"abc")},
    ),
    "good_policy": python(
        "version_policy { specific { versions: [ 2 ] } }",
        files={"1/model.py": b"", "2/model.py": MODEL_PY.encode()},
    ),
    "good_parameters": python('parameters { key: "answer" value { string_value: "42" } }'),
    "good_ensemble": ensemble(
        step("good_python", {"x": "x"}, {"y": "middle"})
        + step("good_onnx", {"x": "middle"}, {"y": "y"})
    ),
    "good_unbatched": onnx_case(
        batch=0, io=io(x="dims: [ -1, 4 ]", y="dims: [ -1, 4 ]"), files={"1/model.onnx": network()}
    ),
    # the text
    "bad_brace": Case(f'backend: "python"\n{IO}\ninput {{', "config-syntax"),
    "bad_colon": Case('backend "python"', "config-syntax"),
    "bad_character": Case('backend: "python" @', "config-syntax"),
    "bad_field": python("instance_groups { count: 1 }", "unknown-field"),
    "bad_inner_field": python(io=io(x="dim: [ 4 ] dims: [ 4 ]"), rule="unknown-field"),
    "bad_enum": python(io=io(x_type="TYPE_FLOAT32"), rule="field-value"),
    "bad_quoted_number": Case(f'backend: "python"\nmax_batch_size: "8"\n{IO}', "field-value"),
    "bad_bool": python("dynamic_batching { preserve_ordering: yes }", "field-value"),
    "bad_text": Case(f"backend: python\n{IO}", "field-value"),
    "bad_twice": python("max_batch_size: 4", "field-twice"),
    # folders and files
    "bad_name": python('name: "another"', "name-mismatch"),
    "bad_no_version": python(files={}, rule="no-version"),
    "bad_version_name": python(files={"v1/model.py": MODEL_PY.encode()}, rule="no-version"),
    "bad_policy": python("version_policy { specific { versions: [ 7 ] } }", "version-missing"),
    "bad_no_file": onnx_case(files={"1/network.onnx": network()}, rule="model-file"),
    "bad_empty_file": onnx_case(model=b"", rule="model-file"),
    "bad_file_name": onnx_case('default_model_filename: "other.onnx"', "model-file"),
    "bad_pointer": onnx_case(
        model=b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        rule="git-lfs-pointer",
    ),
    "not_a_model": Case(None, "not-a-model", files={"notes/readme.txt": b"hello"}),
    "bad_ensemble_version": Case(
        f'platform: "ensemble" max_batch_size: 8\n{IO}'
        f"ensemble_scheduling {{ {step('good_python', {'x': 'x'}, {'y': 'y'})} }}",
        "no-version",
    ),
    # the config
    "bad_backend": Case(IO, "backend-unknown", files={"1/weights.bin": b"x"}),
    "bad_platform": onnx_case('platform: "tensorrt_plan"', "platform-backend"),
    "bad_ensemble_backend": ensemble(
        step("good_python", {"x": "x"}, {"y": "y"}), "platform-backend", body='backend: "python"\n'
    ),
    "bad_batch": python(batch=-1, rule="max-batch-size"),
    "bad_zero_dim": python(io=io(x="dims: [ 0 ]"), rule="dims"),
    "bad_negative_dim": python(io=io(x="dims: [ -2 ]"), rule="dims"),
    "bad_no_dims": python(io=io(x=""), rule="dims"),
    "bad_no_type": python(
        io='input { name: "x" dims: [ 4 ] }\noutput { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }',
        rule="data-type",
    ),
    "bad_no_name": python(io=io(x_name=""), rule="tensor-name"),
    "bad_reshape": python(io=io(x="dims: [ 4 ] reshape: { shape: [ 3 ] }"), rule="reshape"),
    "bad_scalar": python(io=io(x="dims: [ 1 ] reshape { shape: [] }"), batch=0, rule="reshape"),
    "bad_format": python(io=io(x="dims: [ 4 ] format: FORMAT_NCHW"), rule="format-dims"),
    "bad_preferred": python(
        "dynamic_batching { preferred_batch_size: [ 16 ] }", "dynamic-batching"
    ),
    "bad_priority": python("dynamic_batching { priority_levels: 2 }", "dynamic-batching"),
    "bad_ordering": python(
        "dynamic_batching { priority_levels: 2 default_priority_level: 1 preserve_ordering: true }",
        "dynamic-batching",
    ),
    "bad_kind": Case(
        f'backend: "python"\n{IO}instance_group {{ kind: KIND_CPU gpus: [ 0 ] }}',
        "instance-group",
        files={"1/model.py": MODEL_PY.encode()},
    ),
    "bad_profile": python('instance_group { kind: KIND_CPU profile: [ "0" ] }', "instance-group"),
    "bad_accelerator": onnx_case(
        "optimization { execution_accelerators { cpu_execution_accelerator { name: "
        '"tensorrt" } } }',
        "accelerator",
        loads=True,  # the embedded backend reads no accelerators; NVIDIA's refuses
    ),
    "bad_warmup_input": python(
        WARMUP.format(batch=1, key="z", v="data_type: TYPE_FP32 dims: [ 4 ] zero_data: true"),
        "warmup",
        loads=None,
    ),
    "bad_warmup_type": python(
        WARMUP.format(batch=1, key="x", v="data_type: TYPE_INT32 dims: [ 4 ] zero_data: true"),
        "warmup",
        loads=None,
    ),
    "bad_warmup_dims": python(
        WARMUP.format(batch=1, key="x", v="data_type: TYPE_FP32 dims: [ 5 ] zero_data: true"),
        "warmup",
        loads=None,
    ),
    "bad_warmup_batch": python(
        WARMUP.format(batch=9, key="x", v="data_type: TYPE_FP32 dims: [ 4 ] zero_data: true"),
        "warmup",
        loads=None,
    ),
    "bad_warmup_file": python(TEXT_WARMUP, "warmup-file", io=TEXT_IO),
    "bad_warmup_size": python(
        WARMUP.format(
            batch=1, key="x", v='data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "one"'
        ),
        "warmup-file",
        files={"1/model.py": MODEL_PY.encode(), "warmup/one": b"123"},
    ),
    "bad_warmup_text": python(
        TEXT_WARMUP,
        "warmup-file",
        io=TEXT_IO,
        loads=None,
        files={"1/model.py": MODEL_PY.encode(), "warmup/one": b"abcdef"},
    ),
    "bad_labels": python(io=io(y='dims: [ 4 ] label_filename: "labels.txt"'), rule="labels"),
    "bad_cache": python(
        "response_cache { enable: true } model_transaction_policy { decoupled: true }",
        "response-cache",
    ),
    "bad_sequence": python(
        "sequence_batching { direct { minimum_slot_utilization: 1.5 } }", "sequence-batching"
    ),
    # model files
    "bad_onnx_file": onnx_case(model=b"this is no model", rule="onnx-file"),
    "bad_onnx_name": onnx_case(io=io(x_name="image"), rule="onnx-tensors", loads=None),
    "bad_onnx_type": onnx_case(io=io(x_type="TYPE_FP16"), rule="onnx-type", loads=None),
    "bad_onnx_dims": onnx_case(io=io(x="dims: [ 5 ]"), rule="onnx-dims", loads=None),
    "bad_onnx_free": onnx_case(io=io(y="dims: [ -1 ]"), rule="onnx-dims", loads=None),
    "bad_onnx_rank": onnx_case(io=io(x="dims: [ 4, 1 ]"), rule="onnx-dims", loads=None),
    "bad_onnx_batch": onnx_case(
        io=io(x="dims: [ -1, 4 ]", y="dims: [ -1, 4 ]"), rule="batch-dimension-twice", loads=None
    ),
    "bad_onnx_fixed": onnx_case(model=network((1, 4)), rule="onnx-fixed-batch", loads=None),
    "bad_plan": Case(
        f'backend: "tensorrt"\nmax_batch_size: 8\n{IO}',
        "plan-file",
        files={"1/model.plan": b"metadata ftrt" + bytes(64)},
    ),
    "bad_rtx_plan": Case(
        f'backend: "tensorrt"\nmax_batch_size: 8\n{IO}',
        "plan-flavor",
        files={"1/model.plan": b"vtrt" + bytes(24)},
    ),
    "bad_python_syntax": python(
        files={"1/model.py": b"class TritonPythonModel(:"}, rule="python-model"
    ),
    "bad_python_class": python(
        files={"1/model.py": b"class Model:\n    pass\n"}, rule="python-model"
    ),
    # ensembles
    "bad_step": ensemble(step("no_such_model", {"x": "x"}, {"y": "y"}), "ensemble-step"),
    "bad_step_version": ensemble(
        step("good_python", {"x": "x"}, {"y": "y"}, version=7), "ensemble-step"
    ),
    "bad_step_default_version": ensemble(
        step("good_python", {"x": "x"}, {"y": "y"}, version=None), "ensemble-step"
    ),
    "bad_input_map": ensemble(step("good_python", {"image": "x"}, {"y": "y"}), "ensemble-map"),
    "bad_unmapped": ensemble(step("good_python", {}, {"y": "y"}), "ensemble-map"),
    "bad_output_map": ensemble(step("good_python", {"x": "x"}, {"z": "y"}), "ensemble-map"),
    "bad_ensemble_type": ensemble(
        step("good_python", {"x": "x"}, {"y": "y"}), "ensemble-type", io=io(x_type="TYPE_INT32")
    ),
    "bad_ensemble_shape": ensemble(
        step("good_python", {"x": "x"}, {"y": "y"}), "ensemble-shape", io=io(x="dims: [ 5 ]")
    ),
    "bad_ensemble_batch": ensemble(
        step("good_python", {"x": "x"}, {"y": "y"}), "ensemble-batch", batch=16
    ),
    "bad_never_made": ensemble(
        step("good_python", {"x": "x"}, {"y": "z"}) + step("good_onnx", {"x": "w"}, {"y": "y"}),
        "ensemble-flow",
    ),
    "bad_made_twice": ensemble(
        step("good_python", {"x": "x"}, {"y": "y"}) + step("good_onnx", {"x": "x"}, {"y": "y"}),
        "ensemble-flow",
    ),
    "bad_circle": ensemble(
        step("good_python", {"x": "b"}, {"y": "a"}) + step("good_onnx", {"x": "a"}, {"y": "b"}),
        "ensemble-flow",
        io=io().replace('"y"', '"a"'),
    ),
    "bad_ensemble_instances": ensemble(
        step("good_python", {"x": "x"}, {"y": "y"}), "ensemble-config", body=CPU
    ),
    "bad_no_steps": Case(f'platform: "ensemble"\n{IO}', "ensemble-config", files={"1": None}),
    **MISSED,
}


def write_corpus(repository: Path, *, judged: bool = False) -> Path:
    """Write every case, or those that a server can judge, as the models of one repository."""
    for name, case in CASES.items():
        if not judged or case.loads is not None:
            write_case(case, repository / name)
    return repository
