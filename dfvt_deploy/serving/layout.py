"""What is where in a model repository, and whether it is what was put there."""

from __future__ import annotations

import re
from pathlib import Path

from ..artifact import MANIFEST, STEPS, read_manifest
from ..errors import ArtifactError
from ..files import sha256_of

CONFIG = "config.pbtxt"

#: What a network's step serves.
NETWORK_FILES = ("*.onnx", "*.plan")


def model_names(name: str) -> tuple[str, ...]:
    """The Triton models of one exported model, the ensemble last."""
    return (*(f"{name}_{step}" for step in STEPS), name)


def newest_version(repository: Path, name: str) -> int:
    """The highest version any of the model's steps has in a repository; 0 for none."""
    return max((v for n in model_names(name) for v in _versions(repository / n)), default=0)


def ensembles(repository: Path) -> tuple[str, ...]:
    """Names of the models of this kind that a repository holds."""
    suffix = "_network"
    found = (p.parent.name for p in repository.glob(f"*{suffix}/{CONFIG}"))
    return tuple(sorted(name.removesuffix(suffix) for name in found))


def verify_repository(repository: Path) -> None:
    """Compare every network file that `populate` wrote with the manifest beside it.

    Raises:
        ArtifactError: one is missing or was changed.
    """
    for path in sorted(repository.glob(f"*_network/*/{MANIFEST}")):
        hashes = {record.sha256 for record in read_manifest(path).files.values()}
        files = [file for kind in NETWORK_FILES for file in sorted(path.parent.glob(kind))]
        if not files:
            raise ArtifactError(f"{path.parent} has no network file; populate again")
        for file in files:
            if sha256_of(file) not in hashes:
                raise ArtifactError(
                    f"{file} is not the file that was populated: its SHA-256 is not in "
                    f"{path.name} beside it; populate again"
                )


def rtx_plans(repository: Path) -> list[Path]:
    """The TensorRT-RTX plans of a repository, which NVIDIA's `tensorrt` backend does not load."""
    return sorted(repository.glob("*_network/*/*.rtx.plan"))


def _versions(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return [int(p.name) for p in directory.iterdir() if re.fullmatch(r"[1-9]\d*", p.name)]
