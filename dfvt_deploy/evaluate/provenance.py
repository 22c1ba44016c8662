"""What figures came from: packages and machine, the files they depend on, what to know of them."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifact import Artifact, Manifest
from ..files import sha256_of
from ..serving.layout import CONFIG, model_names, newest_version
from ..types import Task
from .planning import Live, Plan
from .request import Request
from .store import digest_of

if TYPE_CHECKING:
    from .datasets import Dataset

_PACKAGES = (
    "dfvt-deploy",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxsim",
    "nvidia-modelopt",
    "tensorrt",
    "tritonclient",
    "nvidia-pytriton",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "pycocotools",
)

#: Files of a repository that answers depend on.
_SERVED_SUFFIXES = (".pbtxt", ".py", ".txt", ".onnx", ".plan")


def results_key(
    artifact: Artifact, plan: Plan, request: Request, live: Live | None, dataset: Dataset
) -> str:
    """A short hash of everything that results of single images depend on beside the images."""
    manifest = artifact.manifest
    server: list[Any] = []
    if live is not None:
        server = [live.protocol, live.served]
        server += [live.url] if live.repository is None else _contents(live.repository, manifest)
    return digest_of(
        [
            manifest.checkpoint.model_dump(mode="json"),
            manifest.labels,
            manifest.graph.opset,
            [(h.name, manifest.files[h.file].sha256 if h.file else "") for h in plan.hops],
            dict(plan.steps.answer_options),
            request.device,
            server,
            dataset.kind,
            versions(manifest),
        ]
    )[:12]


def _contents(repository: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """Hashes of the files of a model's newest version, settings included."""
    version = str(newest_version(repository, manifest.name))
    found = []
    for name in model_names(manifest.name):
        folder = repository / name
        found += [
            (str(path.relative_to(repository)), sha256_of(path))
            for path in sorted((folder / CONFIG, *(folder / version).rglob("*")))
            if path.is_file() and path.suffix in _SERVED_SUFFIXES
        ]
    return found


def versions(manifest: Manifest) -> dict[str, str]:
    """Of Python and the packages that figures depend on, and of those the model was exported
    with where they are others."""
    found = {"python": platform.python_version()}
    installed = {d.name.lower(): d.version for d in metadata.distributions()}
    found |= {name: installed[name] for name in _PACKAGES if name in installed}
    others = {
        f"{name} at the export": version
        for name, version in manifest.versions.items()
        if found.get(name, version) != version
    }
    return found | others


def hardware(device: str) -> dict[str, str]:
    """The processor, its cores and the instruction sets that matter here, memory, and a GPU in
    use."""
    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
    }
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        lines = cpu.read_text(errors="replace").split("\n\n")[0].splitlines()
        fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        found["processor"] = fields.get("model name", found["processor"])
        flags = fields.get("flags", "").split()
        wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile")
        found["instruction sets"] = ", ".join(f for f in wanted if f in flags) or "none of note"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found["memory"] = f"{memory / 2**30:.0f} GiB"
    if device == "cuda":
        import torch

        found["GPU"] = torch.cuda.get_device_name()
    return found


def notes(manifest: Manifest, dataset: Dataset, request: Request) -> tuple[str, ...]:
    """What a reader must know about the figures."""
    found = []
    if not manifest.trained:
        found.append(
            "The weights are untrained: these figures show how the hops agree; about accuracy they "
            "say nothing."
        )
    if request.max_drop is None and any(v.by_gate for v in manifest.verdicts.values()):
        found.append(
            "Without --max-drop this run does not undo the verdict of a gate on the same file."
        )
    if request.dataset is None:
        found.append("No labels: the verdict rests on agreement with the reference.")
        if manifest.task is Task.DETECTION:
            found.append(
                "This project has no detector that learnt something, so nothing here measures how "
                "much average precision a hop costs; with --dataset coco it is measured on yours."
            )
    if request.against == "onnx":
        found.append("The reference is model.onnx, not the PyTorch model: no verdict is recorded.")
    found += dataset.notes
    if len(dataset) < dataset.available:
        found.append(f"{len(dataset):,} of {dataset.available:,} images, evenly spread.")
    return tuple(found)


def checkpoint_text(manifest: Manifest) -> str:
    """Where the weights came from, in a line."""
    record = manifest.checkpoint
    if record.source == "untrained":
        return "untrained weights"
    return f"{record.file} ({record.source}), SHA-256 {record.sha256}"
