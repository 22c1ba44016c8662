"""What figures were measured with and on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from ..artifact import Manifest

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


def versions(manifest: Manifest) -> dict[str, str]:
    """Of Python and the packages that figures depend on, and of those the model was exported
    with where they are others."""
    found = {"python": platform.python_version()}
    installed = {d.name.lower(): d.version for d in metadata.distributions()}
    found |= {name: installed[name] for name in _PACKAGES if name in installed}
    others = {
        f"{name} at the export": version
        for name, version in manifest.versions.items()
        if found.get(name) != version
    }
    return found | others


def hardware(device: str) -> dict[str, str]:
    """The processor, its cores and instruction sets that matter here, memory, and a GPU in use."""
    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
    }
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        fields = dict(
            (part.strip() for part in line.split(":", 1))
            for line in cpu.read_text(errors="replace").split("\n\n")[0].splitlines()
            if ":" in line
        )
        found["processor"] = fields.get("model name", found["processor"])
        flags = set(fields.get("flags", "").split())
        wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile")
        found["instruction sets"] = ", ".join(f for f in wanted if f in flags) or "none of note"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found["memory"] = f"{memory / 2**30:.0f} GiB"
    if device == "cuda":
        import torch

        found["GPU"] = torch.cuda.get_device_name()
    return found
