"""A fourth task is one file in each layer: `toy_task/` beside a copy of the package, no more."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dfvt_deploy.data import SAMPLES

PACKAGE = Path(SAMPLES).parent.parent
TOY = Path(__file__).parent / "toy_task"
NAME = "dfvt_t_embedding"
IMAGE = SAMPLES / "cat.jpg"

#: The embedding of an image in PyTorch, from the manifest and without the exported graph.
IN_PYTORCH = """
import json, sys
from PIL import Image
from dfvt_deploy.artifact import open_artifact
from dfvt_deploy.models.build import model_from_manifest
from dfvt_deploy.pipeline import Pipeline
from dfvt_deploy.runners.pytorch import PytorchRunner
manifest = open_artifact(sys.argv[1]).manifest
with PytorchRunner(manifest, model_from_manifest(manifest)) as runner:
    inputs = Pipeline(manifest).prepare(Image.open(sys.argv[2]).convert("RGB"))
    print(json.dumps(runner.infer(inputs)["embedding"][0].tolist()))
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a copy of the package that knows the toy task."""
    package = tmp_path / "dfvt_deploy"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(TOY, package, dirs_exist_ok=True)
    types, last = package / "types.py", '    SEGMENTATION = "segmentation"\n'
    text = types.read_text()
    assert last in text
    types.write_text(text.replace(last, f'{last}    EMBEDDING = "embedding"\n'))
    return tmp_path


def run(folder, *words) -> str:
    """The output of Python in the folder, which imports the package that lies there."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(folder, *words):
    """The JSON document of a command."""
    return json.loads(run(folder, "-m", "dfvt_deploy", *words, "--json"))


def test_a_new_task_is_its_files_alone(folder):
    assert 1 + sum(path.is_file() for path in TOY.rglob("*.py")) <= 8
    command(folder, "export", "--variant", "t", "--task", "embedding")
    command(folder, "populate", NAME)
    server = subprocess.Popen(
        [sys.executable, "-m", "dfvt_deploy", "serve", "--ephemeral-ports", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        urls = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")
        served = ["--url", urls["grpc"]]
        (answer,) = command(folder, "predict", str(IMAGE), "--model", NAME, "--save", "s", *served)
        report = command(folder, "validate", NAME, *served)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)

    vector = np.array(answer["outputs"]["embedding"])
    expected = json.loads(run(folder, "-c", IN_PYTORCH, f"exports/{NAME}", str(IMAGE)))
    assert np.linalg.norm(vector) == pytest.approx(1)
    np.testing.assert_allclose(vector, expected, atol=1e-5)
    assert (folder / "s" / "cat.png").is_file()
    assert report["outcome"] == "passed"
    assert "triton ensemble" in [stage["name"] for stage in report["stages"]]
    assert NAME not in [row["name"] for row in command(folder, "models")]
