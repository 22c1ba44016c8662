"""Cases of lint's corpus that a second one taught, which was made without a look at the rules."""

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
)

COMPLETED_PY = MODEL_PY.replace(
    "    def execute",
    "    def auto_complete_config(config):\n        return config\n\n    def execute",
).encode()
DECOUPLED = "model_transaction_policy { decoupled: true }"
TWO_INPUTS = IO + 'input { name: "z" data_type: TYPE_FP32 dims: [ 4 ] }\n'
CONTROL = "sequence_batching {{ control_input {{ {} control {{ {} }} }} }}"
START = "kind: CONTROL_SEQUENCE_START"

MISSED: dict[str, Case] = {
    "good_completed": Case('backend: "python"', None, None, {"1/model.py": COMPLETED_PY}),
    "good_no_config": Case(None, None, None, {"1/model.onnx": network()}),
    "good_cuda": onnx_case(
        'optimization { execution_accelerators { gpu_execution_accelerator { name: "cuda" } } }'
    ),
    "good_decoupled": python(DECOUPLED, batch=0),
    "good_two_inputs": python(batch=0, io=TWO_INPUTS),
    "good_control": python(CONTROL.format('name: "a"', f"{START} int32_false_true: [ 0, 1 ]")),
    "good_comment": Case(
        f'# mod\xe8le\nbackend: "python"\n{IO}{CPU}',
        files={"1/model.py": MODEL_PY.encode()},
        loads=True,
    ),
    "bad_comma": python(io=io(x="dims: [ 4 4 ]"), rule="config-syntax"),
    "bad_no_latest": python("version_policy { latest { num_versions: 0 } }", "no-version"),
    "bad_dotted": Case('platform: "onnxruntime_onx"\n' + IO, "backend-unknown"),
    "bad_backend_name": Case(f'backend: "onnx"\n{IO}', "backend-unknown"),
    "bad_savedmodel": Case(
        f'platform: "tensorflow_savedmodel"\n{IO}', "model-file", files={"1/saved_model.pb": b"x"}
    ),
    "bad_environment": python(
        'parameters { key: "EXECUTION_ENV_PATH" value { string_value: '
        '"$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }',
        "model-file",
    ),
    "bad_import": python(
        files={"1/model.py": b"from .no import x\n" + MODEL_PY.encode()}, rule="python-model"
    ),
    "bad_reshape_free": python(
        io=io(x="dims: [ -1, 4 ] reshape { shape: [ -1, 2 ] }"), rule="reshape"
    ),
    "bad_signature": python(
        files={"1/model.py": MODEL_PY.replace("self, requests", "self").encode()},
        rule="python-model",
        loads=None,
    ),
    "bad_json": Case('backend: "vllm"', "model-file", files={"1/model.json": b'{"model": "a",}'}),
    "bad_shape_tensor": python(io=io(x="dims: [ 4 ] is_shape_tensor: true"), rule="tensorrt-only"),
    "bad_batch_input": python(
        'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT32 }',
        "batch-io",
    ),
    "bad_batch_output": python(
        'batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "z" source_input: "x" }',
        "batch-io",
    ),
    "bad_control": python(CONTROL.format('name: "a"', START), "sequence-batching"),
    "bad_control_name": python(
        CONTROL.format("", f"{START} int32_false_true: [ 0, 1 ]"), "sequence-batching"
    ),
    "bad_control_type": python(
        CONTROL.format('name: "a"', "kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32"),
        "sequence-batching",
    ),
    "bad_schedulers": python(
        "dynamic_batching { }\nsequence_batching { direct { } }", "schedulers"
    ),
    "bad_state_file": python(
        'sequence_batching { state { input_name: "s" output_name: "t" data_type: TYPE_FP32 dims: 4 '
        'initial_state { name: "i" data_type: TYPE_FP32 dims: 4 data_file: "no" } } }',
        "sequence-batching",
    ),
    "bad_value": onnx_case(
        'parameters { key: "execution_mode" value { string_value: "parallel" } }',
        "parameter-value",
        loads=None,
    ),
    "bad_option": onnx_case(
        "optimization { execution_accelerators { gpu_execution_accelerator { name: "
        '"tensorrt" parameters { key: "precision" value: "FP16" } } } }',
        "accelerator",
        loads=None,
    ),
    "bad_warmup_data": python(
        WARMUP.format(batch=1, key="x", v="data_type: TYPE_FP32 dims: [ 4 ]"), "warmup", loads=None
    ),
    "bad_operator": onnx_case(model=network(domain="com.example"), rule="onnx-operator"),
    "bad_opset": onnx_case(model=network(opset=99), rule="onnx-version"),
    "bad_output": onnx_case(
        model=network(("n", "m")), io=io(x="dims: [ -1 ]"), rule="onnx-dims", loads=None
    ),
    "bad_unused": ensemble(
        step("good_python", {"x": "x"}, {"y": "y"}) + step("good_onnx", {"x": "x"}, {"y": "z"}),
        "ensemble-unused",
    ),
    "bad_ensemble_warmup": ensemble(
        step("good_python", {"x": "x"}, {"y": "y"}), "ensemble-config", body=GOOD_WARMUP
    ),
    "bad_no_platform": Case(
        f"ensemble_scheduling {{ {step('good_python', {'x': 'x'}, {'y': 'y'})} }}\n{IO}",
        "platform-backend",
        files={"1": None},
    ),
    "bad_around_1": ensemble(step("bad_around_2", {"x": "x"}, {"y": "y"}), "ensemble-flow"),
    "bad_around_2": ensemble(step("bad_around_1", {"x": "x"}, {"y": "y"}), "ensemble-flow"),
    "bad_decoupled": ensemble(
        step("good_decoupled", {"x": "x"}, {"y": "a"})
        + step("good_decoupled", {"x": "x"}, {"y": "b"})
        + step("good_two_inputs", {"x": "a", "z": "b"}, {"y": "y"}),
        "ensemble-decoupled",
        batch=0,
    ),
}
