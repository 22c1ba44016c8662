"""What NVIDIA's Triton images hold, as data: `data/triton_releases.json`."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.version import Version

from ..errors import BadInput

_FILE = Path(__file__).parent.parent / "data" / "triton_releases.json"

#: What is used where no release is named: one with the security fixes of 26.04 and later.
DEFAULT_RELEASE = "26.07"

#: What `--target` looks like.
_TARGET = re.compile(r"tritonserver:([0-9]{2}\.[0-9]{2})(-py3)?")


@dataclass(frozen=True)
class TritonRelease:
    """One release, such as 26.04. Versions have as many parts as are known; the sources are where
    they were read."""

    name: str
    tensorrt: str
    tensorrt_source: str
    onnxruntime: str
    onnxruntime_source: str

    @property
    def image(self) -> str:
        return f"nvcr.io/nvidia/tritonserver:{self.name}-py3"

    @property
    def builder_image(self) -> str:
        """The image with the same TensorRT and its Python package, which Triton's lacks."""
        return f"nvcr.io/nvidia/tensorrt:{self.name}-py3"

    def has_tensorrt(self, version: str) -> bool:
        """Whether a TensorRT version is the one of this release, as far as that is known."""
        known = Version(self.tensorrt).release
        return Version(version).release[: len(known)] == known


@cache
def triton_releases() -> dict[str, TritonRelease]:
    """Every known release by name, oldest first."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    sources = content["sources"]
    return {
        name: TritonRelease(
            name,
            row["tensorrt"],
            sources[row["tensorrt_source"]],
            row["onnxruntime"],
            sources[row["onnxruntime_source"]],
        )
        for name, row in sorted(content["releases"].items())
    }


def triton_release(target: str) -> TritonRelease:
    """The release of `tritonserver:YY.MM`; BadInput where it is written otherwise, or not known."""
    found = _TARGET.fullmatch(target)
    if found is None:
        raise BadInput(f"--target {target!r} is not tritonserver:YY.MM, as tritonserver:26.07")
    releases = triton_releases()
    if found[1] not in releases:
        raise BadInput(
            f"what {target} holds is not known; known releases: {', '.join(releases)}. "
            f"Add it to {_FILE.name}, or build without --target inside that container"
        )
    return releases[found[1]]
