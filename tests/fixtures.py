"""Fixture weights in the published checkpoint layout, and images to test with."""

import io
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import jsonschema
import numpy as np
import torch
from PIL import Image

from dfvt_deploy.artifact import Artifact
from dfvt_deploy.serving.layout import VERSION_RECORD, hashes, read_version

from .reference import fixture_weights

REFERENCE = Path(__file__).parent / "reference"
SCHEMAS = Path(__file__).parent.parent / "docs" / "schemas"

#: Differences that the reference arrays allow (two threads, any CPU).
LOGITS_TOLERANCE = 2e-5


def shapes(name: str) -> dict[str, list[int]]:
    return json.loads((REFERENCE / f"shapes_{name}.json").read_text())


def fixture_state_dict(variant: str, num_classes: int = 1000) -> dict[str, torch.Tensor]:
    """The published classifier's state dict, derived buffers included."""
    table = dict(shapes(f"cls_{variant}"))
    for key in ("head.weight", "head.bias"):
        table[key] = [num_classes, *table[key][1:]]
    weights = {
        key: torch.from_numpy(np.asarray(value))
        for key, value in fixture_weights.fill_state_dict(table).items()
    }
    for key, shape in table.items():
        if key not in weights:
            weights[key] = torch.zeros(shape)
    return weights


def dense_state_dict(name: str) -> dict[str, torch.Tensor]:
    """The state dict of `shapes_<name>.json`, the auxiliary head and derived buffers included."""
    table = shapes(name)
    filled = fixture_weights.fill_state_dict(table)
    return {
        key: torch.from_numpy(np.asarray(filled[key])) if key in filled else torch.zeros(shape)
        for key, shape in table.items()
    }


def save_published(path: Path, weights: dict[str, torch.Tensor], **options) -> Path:
    """Write `{"model", "optimizer", "lr_scheduler", "config", …}` with a config that pickles as
    yacs' CfgNode does, of a module that is not there when the file is read."""
    module = ModuleType("yacs.config")

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    modules = {"yacs": ModuleType("yacs"), "yacs.config": module}
    config = CfgNode(MODEL=CfgNode(TYPE="dfvt", DEPTHS=[1, 1, 2, 1]), AMP_OPT_LEVEL="O0")
    config.__dict__["__immutable__"] = True
    content = {
        "model": weights,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
        "lr_scheduler": {"t_initial": 300},
        "max_accuracy": 78.29,
        "epoch": 299,
        "config": config,
    }
    with mock.patch.dict(sys.modules, modules):
        torch.save(content, path, **options)
    return path


def copy_of(artifact: Artifact, folder: Path) -> Path:
    """A copy of an artifact's own files in `folder`, to be changed."""
    target = folder / artifact.directory.name
    target.mkdir()
    for name in ("model.onnx", "manifest.json"):
        shutil.copy(artifact.directory / name, target)
    return target


def record_again(repository: Path, name: str, version: int = 1) -> None:
    """Let the record of a version say that its files, as they are now, were populated so."""
    record = read_version(repository, name, version)
    changed = record.model_copy(update={"files": hashes(repository, name, version)})
    path = repository / name / str(version) / VERSION_RECORD
    path.write_text(changed.model_dump_json())


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours, edges and noise, as photographs have them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    channels = [
        127 + 90 * np.sin(rng.uniform(3, 40) * x + rng.uniform(3, 40) * y + rng.uniform(0, 6))
        for _ in range(3)
    ]
    pixels = np.stack(channels, axis=-1) + rng.normal(0, 12, (height, width, 3))
    pixels[(x - 0.4) ** 2 + (y - 0.3) ** 2 < 0.02] += 80
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, format_: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def json_document(command: str, text: str) -> Any:
    """The document that a command printed with `--json`, which keeps to its published schema."""
    document = json.loads(text)
    jsonschema.validate(document, json.loads((SCHEMAS / f"{command}.schema.json").read_text()))
    return document
