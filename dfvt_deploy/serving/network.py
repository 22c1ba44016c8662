"""Which files of an exported model the network's step serves, and whether they can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..artifact import Artifact, Manifest
from ..engines.profiles import DEFAULTS
from ..engines.record import Engine, EngineRecord, engines_of, record_path
from ..errors import ArtifactError, BadInput
from ..progress import warn
from ..types import Flavor, Precision, Task
from .config import WARMUP_SIZE, NetworkFiles

#: The name of an ONNX file in a repository, whatever its precision.
ONNX_FILE = "model.onnx"


@dataclass(frozen=True)
class Network:
    """What the config names, and the files to copy by their name in the repository."""

    files: NetworkFiles
    copied: Mapping[str, Path]

    @property
    def sources(self) -> list[str]:
        """Names of the ONNX file or the plans among them, which `validate` judges."""
        return [p.name for p in self.copied.values() if p.suffix in (".onnx", ".plan")]


def onnxruntime_network(artifact: Artifact, precision: Precision) -> Network:
    """The ONNX file of a precision.

    Raises:
        ArtifactError: it was not made, or its source changed since.
    """
    source = artifact.onnx_path(precision)
    return Network(NetworkFiles("onnxruntime", ONNX_FILE), {ONNX_FILE: source})


def tensorrt_network(
    artifact: Artifact,
    precision: Precision,
    flavor: Flavor,
    max_batch_size: int,
    engines: Sequence[Engine] | None = None,
) -> Network:
    """Every plan of a precision, so that each GPU finds its own.

    Args:
        engines: those to serve, verified already; all by default.

    Raises:
        ArtifactError: there is none, one is damaged or stale, or one takes fewer images than
            `max_batch_size`, or more than one at least.
    """
    engines = engines or engines_of(artifact, precision, flavor)
    copied = {}
    for engine in engines:
        _check_profile(artifact.manifest, engine.record, max_batch_size)
        for path in (engine.path, record_path(engine.path)):
            copied[path.name] = path
    records = [engine.record for engine in engines]
    anywhere = [r.plan for r in records if r.flavor is Flavor.RTX or r.flags.hardware_compatible]
    default = anywhere[0] if anywhere else records[0].plan if len(records) == 1 else ""
    own = {r.compute_capability: r.plan for r in records if r.flavor is Flavor.TENSORRT}
    by_capability = {str(k): v for k, v in own.items()} if len(records) > 1 else {}
    warmup = _warmup_size(artifact.manifest, records)
    return Network(NetworkFiles("tensorrt", default, by_capability, warmup), copied)


def check_cuda_graphs(manifest: Manifest, network: Network) -> None:
    """Raises BadInput for a network that Triton cannot record as a CUDA graph."""
    if network.files.backend != "tensorrt":
        raise BadInput("--cuda-graphs is for --backend tensorrt")
    if manifest.task is Task.DETECTION:
        raise BadInput(f"{manifest.name} has loops, which no CUDA graph holds; omit --cuda-graphs")
    if any(isinstance(dim, str) for spec in manifest.inputs for dim in spec.shape[1:]):
        raise BadInput(
            f"{manifest.name} takes images of any size, a CUDA graph holds one; omit "
            "--cuda-graphs, or export with --static HxW"
        )


def _check_profile(manifest: Manifest, record: EngineRecord, max_batch_size: int) -> None:
    record.require_batch(max_batch_size)
    least = max(shapes.min[0] for shapes in record.profile.values())
    if least > 1:
        raise ArtifactError(
            f"{record.plan} takes at least {least} images at once, but a request may have 1; "
            "build it again with --min-batch 1"
        )
    if (sizes := DEFAULTS[manifest.task].sizes) and (bounds := _size_bounds(manifest, [record])):
        low, high = bounds
        if any(low[i] > sizes[0][i] or high[i] < sizes[2][i] for i in range(2)):
            warn(
                f"{record.plan} takes canvases of {low[0]}x{low[1]} to {high[0]}x{high[1]} only; "
                "images that need another will be refused"
            )


def _size_bounds(
    manifest: Manifest, records: Sequence[EngineRecord]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Least and largest height and width that all plans take; None where the size is fixed."""
    (images,) = (spec for spec in manifest.inputs if spec.name == "images")
    if "height" not in images.shape:
        return None
    axes = [images.shape.index(name) for name in ("height", "width")]
    profiles = [record.profile["images"] for record in records]
    low, high = (
        [pick(getattr(profile, bound)[axis] for profile in profiles) for axis in axes]
        for pick, bound in ((max, "min"), (min, "max"))
    )
    return (low[0], low[1]), (high[0], high[1])


def _warmup_size(manifest: Manifest, records: Sequence[EngineRecord]) -> tuple[int, int]:
    if (bounds := _size_bounds(manifest, records)) is None:
        return WARMUP_SIZE
    height, width = (
        min(max(side, low), high) for side, low, high in zip(WARMUP_SIZE, *bounds, strict=True)
    )
    return height, width
