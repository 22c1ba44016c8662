"""Triton's tensorrt backend: every plan of a precision, so that each GPU finds its own."""

from collections.abc import Sequence

from ...artifact import Artifact
from ...engines.build import default_sizes
from ...engines.engine import Engine, engines_of
from ...engines.record import EngineRecord, record_path
from ...errors import ArtifactError
from ...manifest import Manifest
from ...progress import warn
from ...types import Flavor
from ..options import PopulateOptions
from ..served_model import WARMUP_SIZE, NetworkFiles, largest_batch
from . import Backend


def _files(
    artifact: Artifact, options: PopulateOptions, engines: Sequence[Engine] | None
) -> NetworkFiles:
    engines = engines or engines_of(artifact, options.chosen_precision, options.flavor)
    records = [engine.record for engine in engines]
    for record in records:
        _check_profile(artifact.manifest, record, largest_batch(artifact.manifest, options))
    paths = [path for each in engines for path in (each.path, record_path(each.path))]
    anywhere = [r.plan for r in records if r.flavor is Flavor.RTX or r.flags.hardware_compatible]
    default = anywhere[0] if anywhere else records[0].plan if len(records) == 1 else ""
    own = {r.compute_capability: r.plan for r in records if r.flavor is Flavor.TENSORRT}
    by_capability = {str(k): v for k, v in own.items()} if len(records) > 1 else {}
    bounds = _size_bounds(artifact.manifest, records)
    sides = zip(WARMUP_SIZE, *bounds, strict=True) if bounds else ()
    warmup = tuple(min(max(side, low), high) for side, low, high in sides)
    copied = {path.name: path for path in paths}
    return NetworkFiles(copied, default, by_capability, warmup or WARMUP_SIZE)


def _check_profile(manifest: Manifest, record: EngineRecord, max_batch_size: int) -> None:
    record.require_batch(max_batch_size)
    least = max(shapes.min[0] for shapes in record.profile.values())
    if least > 1:
        raise ArtifactError(
            f"{record.plan} takes at least {least} images at once, but a request may have 1; "
            "build it again with --min-batch 1"
        )
    if (sizes := default_sizes(manifest)) and (bounds := _size_bounds(manifest, [record])):
        low, high = bounds
        if any(low[i] > sizes[0][i] or high[i] < sizes[2][i] for i in range(2)):
            warn(
                f"{record.plan} takes canvases of {low[0]}x{low[1]} to {high[0]}x{high[1]} only; "
                "images that need another will be refused"
            )


def _size_bounds(
    manifest: Manifest, records: Sequence[EngineRecord]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Least and largest height and width that all plans take; None where the size is fixed."""
    (images,) = (spec for spec in manifest.inputs if spec.name == "images")
    if "height" not in images.shape:
        return None
    axes = [images.shape.index(name) for name in ("height", "width")]
    profiles = [record.profile["images"] for record in records]
    low = tuple(max(profile.min[axis] for profile in profiles) for axis in axes)
    high = tuple(min(profile.max[axis] for profile in profiles) for axis in axes)
    return low, high


BACKEND = Backend(_files, packages={"dfvt_gpu": "dfvt_deploy.gpu"})
