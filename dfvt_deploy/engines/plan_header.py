"""The first bytes of a plan, which say what built it.

A plan starts with four bytes that differ between TensorRT and TensorRT-RTX; bytes 24 to 27 are the
four parts of the version.
"""

from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from ..artifact import remake_remedy
from ..errors import ArtifactError
from ..gpu.libraries import LIBRARIES
from ..types import Flavor

#: Bytes of a plan up to and with its version.
_HEADER = 28

#: How many bytes of a file are searched for the start of a plan.
_SEARCHED = 2**20

_FLAVORS = {LIBRARIES[flavor.value].magic: flavor for flavor in Flavor}


@dataclass(frozen=True)
class PlanHeader:
    """What a plan says of itself."""

    flavor: Flavor
    version: str

    def is_of(self, flavor: Flavor, version: str) -> bool:
        """Whether this TensorRT version writes this header, which has one byte for each part."""
        parts = [part % 256 for part in Version(version).release]
        return self.flavor is flavor and self.version == ".".join(map(str, (parts + [0] * 4)[:4]))


def read_plan_header(path: Path) -> PlanHeader:
    """Flavor and version from the first bytes of a plan. Raises ArtifactError where the file is no
    plan, something stands in front of the plan, or its end is missing."""
    try:
        with path.open("rb") as file:
            start = file.read(_SEARCHED)
        size = path.stat().st_size
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise ArtifactError(f"{path} is empty; {remake_remedy(path)}")
    flavor = _FLAVORS.get(start[:4])
    if flavor is None:
        raise _no_plan(path, start)
    if len(start) < _HEADER:
        raise ArtifactError(f"{path} is cut off after {size} bytes; {remake_remedy(path)}")
    if flavor is Flavor.RTX:  # the field that holds the size was never seen in TensorRT's plans
        expected = int.from_bytes(start[16:24], "little")
        if size < expected:
            raise truncated(path, size, expected)
    return PlanHeader(flavor, ".".join(map(str, start[24:28])))


def truncated(plan: Path, found: int, expected: int) -> ArtifactError:
    return ArtifactError(
        f"{plan} is cut off: {found} of {expected} bytes; copy it again, or {remake_remedy(plan)}"
    )


def _no_plan(path: Path, start: bytes) -> ArtifactError:
    ahead = min((at for magic in _FLAVORS if (at := start.find(magic)) > 0), default=None)
    if ahead is None:
        return ArtifactError(
            f"{path} is no TensorRT plan: it starts with {start[:4].hex(' ')}; "
            f"{remake_remedy(path)}"
        )
    return ArtifactError(
        f"{path}: {ahead} bytes stand in front of the plan; TensorRT and Triton read the raw "
        f"plan only. Remove them (tail --bytes=+{ahead + 1}), or {remake_remedy(path)}"
    )
