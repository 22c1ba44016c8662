"""What the figures of a validation came from: files, packages, machine, and remarks on them."""

import os
import platform
from pathlib import Path
from typing import Any

from ..cores import processor, processor_field
from ..files import digest_of, sha256_of
from ..manifest import Manifest
from ..provenance import tool_versions
from .build_stages import Stages
from .datasets.sample import Dataset
from .options import ValidateOptions

_PACKAGES = (
    *("dfvt-deploy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxsim", "openvino"),
    *("nvidia-modelopt", "tensorrt", "tritonclient", "nvidia-pytriton", "numpy", "pillow"),
    *("opencv-python-headless", "pycocotools"),
)

#: Instruction sets of a processor that the speed and the rounding of figures depend on.
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile")


def results_key(stages: Stages) -> str:
    """A short hash of what the results of single images depend on beside the images."""
    manifest, options, live = stages.manifest, stages.options, stages.live
    server: list[Any] = []
    if live is not None:
        server = [options.protocol, live.file, live.precision]
        server += [options.url or _contents(options.repository, manifest.name)]
    hashes = [(s.name, manifest.files[s.file].sha256 if s.file else "") for s in stages.made]
    return digest_of(
        [
            manifest.checkpoint.model_dump(mode="json"),
            manifest.labels,
            manifest.graph.opset,
            hashes,
            dict(stages.pipeline.answer_options),
            options.device,
            server,
            options.dataset or "images",
            versions(manifest),
        ]
    )[:12]


def _contents(repository: Path, name: str) -> dict[str, str]:
    """Hashes of the files of a model's live version, settings included."""
    from ..serving.layout import CONFIG, hashes, live_version, model_names

    configs = {each: sha256_of(repository / each / CONFIG) for each in model_names(name)}
    return {**hashes(repository, name, live_version(repository, name)), **configs}


def versions(manifest: Manifest | None = None) -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on, here and at the export."""
    found = {"python": platform.python_version(), **tool_versions(*_PACKAGES)}
    exported = manifest.versions if manifest else {}
    others = {name: v for name, v in exported.items() if found.get(name, v) != v}
    return found | {f"{name} at the export": version for name, version in others.items()}


def hardware(device: str) -> dict[str, str]:
    """The processor with its cores and instruction sets, the memory, and the GPU if one is used."""
    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": str(os.cpu_count()),
    }
    if flags := processor_field("flags").split():
        known = ", ".join(name for name in _INSTRUCTION_SETS if name in flags)
        found["instruction sets"] = known or f"none of {', '.join(_INSTRUCTION_SETS)}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found["memory"] = f"{memory / 2**30:.0f} GiB"
    if device == "cuda":
        import torch

        found["GPU"] = torch.cuda.get_device_name()
    return found


def notes(manifest: Manifest, dataset: Dataset, options: ValidateOptions) -> tuple[str, ...]:
    """Remarks that a reader of the figures must know."""
    found = []
    if not manifest.trained:
        found.append(
            "The weights are untrained: the figures show how far the stages agree, and say nothing "
            "about accuracy."
        )
    if options.max_drop is None and any(v.by_gate for v in manifest.verdicts.values()):
        found.append(
            "Without --max-drop this run does not undo the verdict of a gate on the same file."
        )
    if options.dataset is None:
        found.append(
            "The images have no labels: the verdict rests on agreement with the reference."
        )
    if options.against == "onnx":
        found.append("The reference is model.onnx, not the PyTorch model: no verdict is recorded.")
    found += dataset.notes
    if len(dataset) < dataset.available:
        found.append(f"{len(dataset):,} of {dataset.available:,} images were used, evenly spread.")
    return tuple(found)


def checkpoint_text(manifest: Manifest) -> str:
    """Where the weights came from, in a line."""
    record = manifest.checkpoint
    if record.source == "untrained":
        return "untrained weights"
    return f"{record.file} ({record.source}), SHA-256 {record.sha256}"
