"""The calls of TensorRT against what declares them: the 10.x stubs for types, the bindings of
TensorRT-RTX and of TensorRT 11 for names."""

import ast
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import tensorrt_rtx_bindings

ROOT = Path(__file__).parent.parent
FILES = [
    ROOT / "dfvt_deploy" / "engines" / "builder.py",
    ROOT / "dfvt_deploy" / "engines" / "layers.py",
]

#: Objects in those files that are not TensorRT's.
OURS = {
    *("Precision", "Flavor", "json", "time", "Counter"),
    *(
        "options",
        "machine",
        "onnx",
        "shapes_of",
        "file",
        "self",
        "cls",
        "layers",
        "monitor",
        "log",
        "model",
        "node",
    ),
}


@pytest.fixture(scope="module")
def stubs(tmp_path_factory) -> Path:
    """tensorrt-stubs 10.x with its errors of syntax repaired: parameters called `in`, and a default
    before a parameter without one."""
    directory = tmp_path_factory.mktemp("stubs")
    files = [f for f in distribution("tensorrt-stubs").files or [] if f.suffix == ".pyi"]
    assert files, "tensorrt-stubs is not installed; run: make setup"
    for file in files:
        text = file.locate().read_text()
        text = re.sub(r"([(, ])in: ", r"\1in_: ", text)
        text = text.replace(
            "channel_axis: int) -> IScaleLayer", "channel_axis: int = ...) -> ITensor"
        )
        target = directory / str(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (directory / "tensorrt_libs").mkdir()
    (directory / "tensorrt_libs" / "__init__.pyi").touch()
    return directory


def test_the_calls_have_the_types_of_the_stubs(stubs, tmp_path):
    wrong = tmp_path / "wrong.py"  # shows that the stubs are seen
    wrong.write_text("import tensorrt\n\ntensorrt.Builder(tensorrt.Logger()).create_netwrok()\n")
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "mypy", "--no-warn-unused-ignores", "--cache-dir", str(tmp_path / "cache")),
            *("--config-file", str(ROOT / "pyproject.toml")),
            *map(str, [*FILES, wrong]),
        ],
        cwd=ROOT,
        env={"MYPYPATH": str(stubs), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    found = [line for line in done.stdout.splitlines() if not line.startswith(str(stubs))]
    files = (str(wrong), *(str(file.relative_to(ROOT)) for file in FILES))
    errors = [line for line in found if ": error: " in line and line.startswith(files)]
    assert len(errors) == 1 and '"Builder" has no attribute "create_netwrok"' in errors[0], errors


def used_names() -> set[str]:
    """Names that the files read of what may be TensorRT's."""
    names = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Attribute) or node.attr.startswith("_"):
                continue
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if not (isinstance(root, ast.Name) and root.id in OURS):
                names.add(node.attr)
    return names - {*dir(str), *dir(dict)}


def test_the_names_of_10_are_still_there_in_tensorrt_rtx_and_tensorrt_11(stubs):
    ten = {word for file in stubs.rglob("*.pyi") for word in re.findall(r"\w+", file.read_text())}
    rtx = {
        name
        for holder in (tensorrt_rtx_bindings, *vars(tensorrt_rtx_bindings).values())
        for name in dir(holder)
    }
    lines = (Path(__file__).parent / "tensorrt_11_names.txt").read_text().splitlines()
    eleven = {line for line in lines if not line.startswith("#")}
    used = used_names() & ten
    assert {"create_network", "builder_optimization_level", "get_engine_information"} <= used
    assert used - rtx == set()
    assert used - eleven == set()
    assert "FP16" not in eleven, "weakly typed networks are gone"
