"""The command line: exit codes, messages, JSON, and what starting it costs."""

import os
import re
import resource
import shlex
import subprocess
import sys

import pytest
from PIL import Image

import dfvt_deploy
from dfvt_deploy.errors import BadInput, DfvtError
from dfvt_deploy.files import cache_directory
from dfvt_deploy.start import doctor

from .fixtures import encoded, json_document, photograph


def run(*arguments, cwd=None, environment=None, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "dfvt_deploy", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **(environment or {})},
        **options,
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from dfvt_deploy.cli import app;"
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0;"
        "print(sorted(m for m in ('torch', 'onnx', 'onnxruntime', 'tritonclient', 'numpy', 'PIL',"
        "'cv2', 'pydantic') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--variant", "x"], "variant 'x' is none of t, s, b, all"),
        (["export", "--variant", "s", "--task", "x"], "task 'x' is none of classification"),
        (
            ["export", "--variant", "s", "--checkpoint", "none.pth"],
            "--checkpoint none.pth does not exist",
        ),
        (["export", "--variant", "s", "--opset", "9"], "opset 9 is outside 17..23"),
        (["export"], "Missing option '--variant'"),
        (["nonsense"], "No such command"),
        (["populate"], "exports holds no exported model; make one with: dfvt-deploy export"),
        (["populate", "--max-pixels", "0"], "--max-pixels 0 is outside"),
        (["populate", "a", "--device", "tpu"], "device 'tpu' is none of cpu, gpu"),
        (["populate", "nobody"], "exports holds no exported model called nobody"),
        (["serve", "--repository", "none"], "none holds no model"),
        (["predict", "none.jpg", "--model", "m"], "none.jpg cannot be read"),
        (["predict", "none.jpg", "--model", "m", "--url", "localhost:x"], "must be host:port"),
        (["quickstart", "--variant", "all"], "--variant 'all' is none of t, s, b\n"),
        (
            ["export", "--variant", "t", "--task", "segmentation", "--static", "²x³"],
            "is not height x width",
        ),
        (["export", "--variant", "t", "--num-classes", "2000000000"], "is outside 1..65536"),
        (["populate", "a", "--instances", "-3"], "--instances -3 is outside"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_message(tmp_path, arguments, message):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_streams_that_are_closed_full_or_latin_1(tmp_path):
    shell = {"shell": True, "text": True, "cwd": tmp_path, "stderr": subprocess.PIPE}
    command = f"{shlex.quote(sys.executable)} -m dfvt_deploy models"
    assert subprocess.run(f"{command} >&-", **shell).returncode == 0
    full = subprocess.run(f"{command} >/dev/full", **shell)
    assert full.returncode == 3
    assert full.stderr == "error: system: No space left on device\n"
    assert subprocess.run(f"{command} | true", **shell).returncode == 0
    assert subprocess.run(f"{command} -x >/dev/full 2>&1", **shell).returncode == 3
    lint = f"{shlex.quote(sys.executable)} -m dfvt_deploy lint nowhere"
    assert subprocess.run(f"{lint} >/dev/full 2>&1", **shell).returncode == 2
    name = "a\x1b[31m\u2028é😀\n"
    latin = {"environment": {"PYTHONIOENCODING": "latin-1"}, "encoding": "latin-1"}
    done = run("predict", name, "--model", "m", cwd=tmp_path, **latin)
    assert done.returncode == 2
    assert "a\\x1b[31m\\u2028" in done.stderr
    assert "\x1b" not in done.stderr


def test_without_a_home_a_cache_folder_is_asked_for(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "DFVT_DEPLOY_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}[0])
    with pytest.raises(BadInput, match="set DFVT_DEPLOY_CACHE to a folder"):
        cache_directory()


def test_wrong_files_are_found_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / os.fsdecode(b"a\xff")).mkdir()
    for arguments, message in (
        (["quickstart", "--image", "none.jpg"], "--image none.jpg is not a file"),
        (["quickstart", "--repository", "file"], "--repository file: file is not a folder"),
        (["export", "--variant", "t", "--output", "file/x"], "file is not a folder; give another"),
        (["export", "--variant", "t", "--labels", "none.txt"], "labels none.txt does not exist"),
        (["populate", "--repository", "file"], "file is not a folder; give another"),
        (
            ["predict", "a.jpg", "--model", "m", "--save", "file"],
            "file is not a folder; give another",
        ),
        (["serve", "--log-file", "file/log"], "file is not a folder; give another"),
        (["export", "--variant", "t", "--output", os.fsdecode(b"a\xff")], "is not UTF-8"),
        (["convert", "--precision", "fp16", "--exports", os.fsdecode(b"a\xff")], "is not UTF-8"),
        (
            ["convert", "--precision", "fp16", "--calibration", os.fsdecode(b"a\xff")],
            "is not UTF-8",
        ),
        (["validate", "m", "--exports", os.fsdecode(b"a\xff")], "is not UTF-8"),
        (["serve", "--log-file", "/dev/null"], "is a folder or a device; the log is read again"),
        (["validate", "m", "--images", "none"], "--images none does not exist"),
        (
            ["convert", "--precision", "fp16", "--calibration", "none"],
            "--calibration none is not a",
        ),
    ):
        code = (
            "import sys; from dfvt_deploy.cli import main\ntry: main()\n"
            "finally: print('torch' in sys.modules, file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.endswith("False\n"), done.stderr


def test_no_server_ends_with_5(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(photograph(20, 20), "PNG"))
    done = run("predict", "a.png", "--model", "m", "--url", "127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 5
    assert "start one with: dfvt-deploy serve" in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    done = run("populate", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(("package", "extra"), [("torch", "export"), ("onnxruntime", "cpu")])
def test_a_missing_package_ends_with_3_and_the_install_line(tmp_path, package, extra):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(name={package!r})")
    done = run("export", "--variant", "t", cwd=tmp_path, environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 3, done.stderr
    assert f"pip install 'dfvt-deploy[{extra}]'" in done.stderr


def test_a_full_disk_ends_with_3_and_leaves_nothing(tmp_path, checkpoint_t):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))  # of a file, inherited
    try:
        done = run("export", "--variant", "t", "--checkpoint", checkpoint_t, cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.returncode == 3, done.stderr
    assert "File too large" in done.stderr
    assert [p for p in (tmp_path / "exports").rglob("*") if p.is_file()] == []


def test_export_populate_and_their_json(tmp_path, checkpoint_t):
    done = run("export", "--variant", "t", "--checkpoint", checkpoint_t, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json_document("export", done.stdout)["name"] == "dfvt_t_classification"
    done = run("populate", "--json", cwd=tmp_path)
    assert json_document("populate", done.stdout) == [
        {
            "name": "dfvt_t_classification",
            "version": 1,
            "repository": "model_repository",
            "live": True,
        }
    ]
    done = run("populate", cwd=tmp_path)
    assert "dfvt_t_classification version 2" in done.stdout
    assert "next: dfvt-deploy serve" in done.stdout


def test_several_exports_go_on_past_one_that_fails(tmp_path):
    (tmp_path / "labels").write_text("cat\ndog\n")
    done = run(
        "export", "--variant", "all", "--labels", "labels", "--num-classes", "7", cwd=tmp_path
    )
    assert done.returncode == 3
    assert "3 of 3 failed" in done.stderr


def test_predict_prints_saves_and_gives_json(server, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(photograph(60, 40), "PNG"))
    arguments = ["predict", "a.png", "--model", "dfvt_t_classification", "--url", server.http_url]
    arguments += ["--protocol", "http"]
    done = run(*arguments, "--save", "drawn", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "drawn" / "a.png").is_file()
    (answer,) = json_document("predict", run(*arguments, "--json", cwd=tmp_path).stdout)
    assert len(answer["outputs"]["labels"]) == 5
    assert answer["outputs"]["labels"][0] in done.stdout
    done = run(*arguments, "--coco", "found.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "--coco is for detection; this model is for classification" in done.stderr
    assert not (tmp_path / "found.json").exists()
    (tmp_path / "bad.png").write_bytes(b"bad")
    done = run(*arguments[:1], "bad.png", *arguments[2:], cwd=tmp_path)
    assert done.returncode == 2
    assert "bad.png" in done.stderr


def test_quickstart_ends_with_equal_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("DFVT_DEPLOY_RELEASE_URL", "http://127.0.0.1:9/none")
    done = run("quickstart", "--variant", "t", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json_document("quickstart", done.stdout)
    assert document["http"]["outputs"] == document["grpc"]["outputs"]
    assert len(document["http"]["outputs"]["labels"]) == 5
    assert set(document["seconds"]) >= {"export", "populate", "serve", "stop"}
    assert "http://127.0.0.1:9/none" in document["missing"]
    with Image.open(tmp_path / "quickstart.png") as picture:
        assert picture.format == "PNG"
    assert "untrained" in done.stderr
    assert (tmp_path / "exports" / "dfvt_t_classification" / "model.onnx").is_file()


def test_models_shows_ours_beside_the_published(tmp_path):
    done = run("models", cwd=tmp_path)
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if "dfvt_s_classification" in line]
    assert re.findall(r"\d+\.\d+", line) == ["11.2", "11.2", "0.941", "0.8", "78.29"]
    last = ["9 models", "next: dfvt-deploy export --variant s"]
    assert done.stdout.splitlines()[-2:] == last


def test_doctor_finds_what_the_tests_need():
    findings = {finding.name: finding for finding in dfvt_deploy.doctor()}
    for needed in ("torch", "onnxruntime", "tritonclient", "tritonserver", "libpython"):
        assert findings[needed].found, findings[needed].fix
    assert findings["TensorRT-RTX"].found
    assert "dfvt-deploy[tensorrt]" in findings["TensorRT"].fix
    assert "--gpus=all" in findings["NVIDIA GPU"].fix
    done = run("doctor", "--json")
    assert {entry["name"] for entry in json_document("doctor", done.stdout)} == set(findings)


def test_doctor_has_advice_for_missing_instructions_only(monkeypatch):
    monkeypatch.setattr(doctor, "processor_field", lambda name: "sse2 avx512_vnni")
    vnni, bfloat16 = doctor._instructions()
    assert (vnni.found, vnni.fix, bfloat16.found) == ("avx512_vnni", "", "")
    assert bfloat16.fix


def test_exit_codes_are_those_of_the_contract():
    def tree(kind):
        return [kind, *(k for child in kind.__subclasses__() for k in tree(child))]

    codes = {kind.__name__: kind.exit_code for kind in tree(DfvtError)}
    assert codes["BadInput"] == codes["CheckpointError"] == codes["ArtifactError"] == 2
    assert codes["StageFailed"] == codes["MissingDependency"] == 3
    assert codes["GateFailed"] == 4
    assert codes["ServerFailed"] == 5
