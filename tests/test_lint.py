"""`lint`: a corpus of broken repositories, held against the real server."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from onnx import TensorProto
from typer.testing import CliRunner

from dfvt_deploy.cli import app
from dfvt_deploy.errors import BadInput
from dfvt_deploy.linting.rules import RULES, Severity
from dfvt_deploy.linting.run import lint, report_sarif
from dfvt_deploy.serving.installation import find_tritonserver
from dfvt_deploy.serving.server_arguments import EPHEMERAL, free_ports

from .fixtures import json_document
from .lint_corpus import CASES, write_corpus
from .lint_models import IO, MODEL_PY, Case, network, onnx_case, python, write_case

DOCUMENT = Path(__file__).parent.parent / "docs" / "lint.md"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "repository")


@pytest.fixture(scope="module")
def rules_of(corpus) -> dict[str, set[str]]:
    """The rules that fire in each model of the corpus."""
    found: dict[str, set[str]] = {name: set() for name in CASES}
    for finding in lint(corpus, cores=64).findings:
        found[finding.path.relative_to(corpus).parts[0]].add(finding.rule)
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_found_by_its_rule_and_a_good_one_by_none(rules_of, name):
    errors = {rule for rule in rules_of[name] if RULES[rule].severity is Severity.ERROR}
    if CASES[name].rule is None:
        assert not errors
    else:
        assert CASES[name].rule in rules_of[name]


def test_the_scorecard(rules_of, capsys):
    """Precision over errors, recall over cases; printed for whoever reads the log."""
    right = wrong = found = 0
    for name, case in CASES.items():
        errors = {rule for rule in rules_of[name] if RULES[rule].severity is Severity.ERROR}
        right += case.rule is not None and bool(errors)
        wrong += case.rule is None and bool(errors)
        found += case.rule in rules_of[name]
    broken = sum(case.rule is not None for case in CASES.values())
    with capsys.disabled():
        sys.stdout.write(
            f"\nlint: {len(CASES)} models, precision {right / (right + wrong):.0%}, "
            f"recall {found / broken:.0%}\n"
        )
    assert wrong == 0
    assert found == broken


def test_the_real_server_refuses_what_lint_refuses_and_loads_the_rest(tmp_path):
    repository = write_corpus(tmp_path / "repository", judged=True)
    expected = {name for name, case in CASES.items() if case.loads}
    assert _models_that_load(repository, tmp_path) == expected


def _models_that_load(repository: Path, folder: Path) -> set[str]:
    installation = find_tritonserver(folder)
    ports = free_ports("127.0.0.1", EPHEMERAL)
    command = [
        installation.binary,
        f"--model-repository={repository}",
        *installation.arguments,
        *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc")),
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        "--allow-metrics=false",
        "--disable-auto-complete-config",
        "--exit-on-error=false",
        "--strict-readiness=false",
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, **installation.environment},
            start_new_session=True,
        )
    try:
        return _ready_models(ports.http, server)
    finally:
        server.terminate()
        server.wait(60)
        with contextlib.suppress(ProcessLookupError):  # a step that Triton left behind
            os.killpg(server.pid, signal.SIGKILL)


def _ready_models(port: int, server: subprocess.Popen[bytes]) -> set[str]:
    """The models that are ready once no model is loading any more."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/repository/index", data=b"{}")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                index = json.load(reply)
        except OSError:
            time.sleep(0.5)
            continue
        if not any(model.get("state") == "LOADING" for model in index):
            return {model["name"] for model in index if model.get("state") == "READY"}
        time.sleep(0.5)
    raise AssertionError("the models are still loading")


def test_what_populate_writes_passes(repository):
    report = lint(repository, target="tritonserver:26.07")
    assert [f for f in report.findings if RULES[f.rule].severity is Severity.ERROR] == []
    assert report.models == 4


def test_a_finding_names_line_field_value_limit_and_fix(tmp_path):
    case = python("\ndynamic_batching {\n  preferred_batch_size: [ 16 ]\n}\n")
    write_case(case, tmp_path / "model")
    (finding,) = lint(tmp_path).findings
    text = (tmp_path / "model" / "config.pbtxt").read_text().splitlines()
    assert "preferred_batch_size" in text[finding.line - 1]
    assert finding.field == "dynamic_batching.preferred_batch_size"
    assert "16" in finding.problem and "1..8" in finding.problem
    assert finding.fix


def test_every_problem_is_reported_at_once(tmp_path):
    config = (
        'backend: "python"\nmax_batch_sise: 8\n'
        'input { name: "x" data_type: TYPE_FLOAT dims: [ 0 ] }\n'
        'output { name: "y" data_type: TYPE_FP32 dim: [ 4 ] }\n'
    )
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "model" / "config.pbtxt").write_text(config)
    findings = lint(tmp_path).findings
    assert {"unknown-field", "field-value", "dims", "model-file"} <= {f.rule for f in findings}
    assert any("max_batch_size" in f.fix for f in findings)
    assert any("dims" in f.fix for f in findings if f.line == 4)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"opset": 26}, None),
        ({"opset": 22}, "onnx-version"),
        ({"ir": 11}, "onnx-version"),
        ({"ir": 99}, "onnx-version"),
    ],
)
def test_versions_are_held_against_the_target(tmp_path, options, rule, monkeypatch):
    from dfvt_deploy.linting import run

    write_case(onnx_case(model=network(**options)), tmp_path / "model")
    release = run.triton_release("tritonserver:26.07")
    if rule is not None and options.get("ir") != 99:
        monkeypatch.setattr(
            run,
            "triton_release",
            lambda _: type(release)(**{**vars(release), "onnxruntime": "1.19.2"}),
        )
    rules = {f.rule for f in lint(tmp_path, target="tritonserver:26.07").findings}
    assert ("onnx-version" in rules) is (rule is not None)


def test_threads_and_instances_are_held_against_the_cores(tmp_path):
    threads = 'parameters { key: "intra_op_thread_count" value { string_value: "4" } }'
    write_case(onnx_case(threads), tmp_path / "model")
    assert {f.rule for f in lint(tmp_path, cores=1).findings} == {"threads-and-instances"}
    assert lint(tmp_path, cores=2).findings == ()


def test_misspelt_parameters_are_named(tmp_path):
    body = 'parameters { key: "intra_op_thread_cout" value { string_value: "1" } }'
    write_case(onnx_case(body), tmp_path / "model")
    (finding,) = (f for f in lint(tmp_path, cores=64).findings if f.rule == "parameter")
    assert "intra_op_thread_count" in finding.fix


def test_external_weights_that_are_missing_are_named(tmp_path):
    import onnx

    model = onnx.load_from_string(network())
    weight = onnx.helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0])
    weight.ClearField("float_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    model.graph.initializer.append(weight)
    write_case(onnx_case(model=model.SerializeToString()), tmp_path / "model")
    assert "external-data" in {f.rule for f in lint(tmp_path).findings}


def test_links_libraries_and_permissions(tmp_path):
    outside = tmp_path / "outside.onnx"
    outside.write_bytes(network())
    folder = write_case(onnx_case(files={"1": None}), tmp_path / "repository" / "model")
    (folder / "1" / "model.onnx").symlink_to(outside)
    (folder / "1" / "libtriton_x.so").write_bytes(b"x")
    (folder / "config.pbtxt").chmod(0o666)
    rules = {f.rule for f in lint(tmp_path / "repository", cores=64).findings}
    assert rules == {"link-outside", "shared-library", "writable-by-others"}


def test_fix_corrects_what_is_safe_and_nothing_else(tmp_path):
    ensemble = CASES["bad_ensemble_version"]
    write_case(ensemble, tmp_path / "both")
    write_case(CASES["good_python"], tmp_path / "good_python")
    write_case(python(files={"01/model.py": b"x = 1", "2/model.py": b""}), tmp_path / "other")
    (tmp_path / "both" / "config.pbtxt").chmod(0o666)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    report = lint(tmp_path, fix=True)
    assert (tmp_path / "both" / "1").is_dir()
    assert (tmp_path / "other" / "1" / "model.py").is_file()
    assert len(report.fixed) == 3
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert sorted(before.values()) == sorted(after.values())
    assert "model-file" in {f.rule for f in report.findings}


def test_a_folder_of_one_model_can_be_checked_alone(corpus):
    report = lint(
        corpus / "bad_dims" if (corpus / "bad_dims").exists() else corpus / "bad_zero_dim"
    )
    assert report.models == 1
    assert {f.rule for f in report.findings} == {"dims"}


def test_an_ensemble_checked_alone_finds_its_steps_and_nothing_about_others(corpus, tmp_path):
    assert lint(corpus / "good_ensemble").findings == ()
    write_case(CASES["good_python"], tmp_path / "checked")
    other = write_case(CASES["good_python"], tmp_path / "other")
    (other / "config.pbtxt").chmod(0o666)
    assert lint(tmp_path / "checked").findings == ()


def test_fix_finds_a_file_below_a_folder_that_it_renames(tmp_path):
    folder = write_case(python(files={"01/model.py": MODEL_PY.encode()}), tmp_path / "model")
    (folder / "01" / "model.py").chmod(0o666)
    assert len(lint(tmp_path, fix=True).fixed) == 2
    assert (folder / "1" / "model.py").stat().st_mode & 0o777 == 0o664


def test_formats_and_exit_codes(tmp_path):
    write_case(CASES["bad_zero_dim"], tmp_path / "repository" / "model")
    write_case(CASES["good_python"], tmp_path / "good" / "model")
    run = CliRunner().invoke
    assert run(app, ["lint", str(tmp_path / "good")]).exit_code == 0
    text = run(app, ["lint", str(tmp_path / "repository")])
    assert text.exit_code == 2
    assert "error [dims] input[0].dims: " in text.stdout and "fix: " in text.stdout
    quiet = run(app, ["lint", str(tmp_path / "repository"), "-q"])
    assert quiet.stdout == text.stdout
    ignored = run(app, ["lint", str(tmp_path / "repository"), "--ignore", "dims"])
    assert ignored.exit_code == 0
    document = json_document(
        "lint", run(app, ["lint", str(tmp_path / "repository"), "--json"]).stdout
    )
    assert document["errors"] == 1 and document["findings"][0]["rule"] == "dims"
    sarif = json.loads(run(app, ["lint", str(tmp_path / "repository"), "--format", "sarif"]).stdout)
    assert sarif == report_sarif(lint(tmp_path / "repository"))
    (result,) = sarif["runs"][0]["results"]
    assert result["ruleId"] == "dims" and result["level"] == "error"


def test_wrong_usage_is_told(tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        lint(tmp_path / "missing")
    with pytest.raises(BadInput, match="did you mean dims"):
        lint(tmp_path, ignore=["dim"])
    with pytest.raises(BadInput, match="--target"):
        lint(tmp_path, target="24.10")


@pytest.mark.parametrize(
    "text", ["", "{" * 100, "a" * 100_000, "input " * 2000, "\x00", '"', IO * 200]
)
def test_no_text_ends_in_a_traceback(tmp_path, text):
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "model" / "config.pbtxt").write_text(text)
    lint(tmp_path)


def test_no_file_ends_in_a_traceback(tmp_path):
    import onnx

    model = onnx.load_from_string(network())
    weight = onnx.helper.make_tensor("w", TensorProto.FLOAT, [1], [0.0])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    weight.external_data.add(key="offset", value="here")
    model.graph.initializer.append(weight)
    folder = write_case(onnx_case(model=model.SerializeToString()), tmp_path / "onnx")
    (folder / "circle").symlink_to(folder / "circle")
    write_case(Case('backend: "vllm"', files={"1/model.json": None}), tmp_path / "vllm")
    assert "external-data" in {finding.rule for finding in lint(tmp_path).findings}


def test_every_rule_is_explained_with_a_bad_and_a_good_example():
    text = DOCUMENT.read_text()
    for rule, facts in RULES.items():
        _, _, section = text.partition(f"\n## {rule}\n")
        section = section.partition("\n## ")[0]
        assert facts.summary in " ".join(section.split()), rule
        assert "Bad:" in section and "Good:" in section, rule
