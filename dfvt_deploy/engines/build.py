"""One plan of an exported model: the shapes it takes, and the record of what it holds."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ..artifact import file_record, open_artifact, update_manifest
from ..errors import BadInput, StageFailed
from ..files import sha256_of, staging_directory
from ..manifest import Manifest
from ..options import Size
from ..progress import spinner
from ..provenance import now
from ..tasks.dense import SIZE_MULTIPLE, next_multiple
from ..types import Int8Target, Precision
from .builder import plan_from_onnx
from .engine import Engine, engine_file_name, read_plan_header
from .machine import machine_for
from .options import BuildOptions
from .record import BuildFlags, EngineRecord, ShapeProfile, record_path

#: Most images at once, and height and width of a dense model's canvas.
MAX_BATCH, MAX_SIDE = 4096, 16384

T = TypeVar("T")

#: The smallest, the usual and the largest value. An engine is fastest at the usual one.
Range = tuple[T, T, T]


def profile_of(manifest: Manifest, options: BuildOptions) -> dict[str, ShapeProfile]:
    """The shapes of each input of a model, by the input's name. Raises BadInput where a number is
    out of range, or a canvas is given for a model of one size."""
    batches = _batches(options, manifest.task.entry("tasks", "ENGINE_BATCHES"))
    asked = (options.min_size, options.opt_size, options.max_size)
    defaults = default_sizes(manifest)
    if defaults is None and asked != (None, None, None):
        raise BadInput(f"{manifest.name} has a fixed size; leave --min/--opt/--max-size out")
    sizes = _sizes(asked, defaults) if defaults else None
    profile = {}
    for spec in manifest.inputs:
        dims = []
        for which in range(3):
            known = {"batch": batches[which]}
            if sizes is not None:
                known["height"], known["width"] = sizes[which]
            dims.append(tuple(known[d] if isinstance(d, str) else d for d in spec.shape))
        profile[spec.name] = ShapeProfile(min=dims[0], opt=dims[1], max=dims[2])
    return profile


def default_sizes(manifest: Manifest) -> Range[Size] | None:
    """Canvases of an engine by default, the largest for any image; None for a model of one size."""
    if not any("height" in spec.shape for spec in manifest.inputs):
        return None
    largest = next_multiple(manifest.task.entry("tasks", "LONG_SIDE"))
    usual = manifest.task.entry("tasks", "USUAL_SIZE")
    return (SIZE_MULTIPLE, SIZE_MULTIPLE), usual, (largest, largest)


def _batches(options: BuildOptions, defaults: Range[int]) -> Range[int]:
    given = (options.opt_batch or 0, options.min_batch or 0)
    largest = options.max_batch or max(defaults[2], *given)
    least = options.min_batch or min(defaults[0], largest)
    usual = options.opt_batch or min(max(defaults[1], least), largest)
    if not 1 <= least <= usual <= largest <= MAX_BATCH:
        raise BadInput(
            f"batches {least}, {usual}, {largest} (least, usual, largest) must not fall and be "
            f"within 1..{MAX_BATCH}"
        )
    return least, usual, largest


def _sizes(asked: Range[Size | None], defaults: Range[Size]) -> Range[Size]:
    given = [size for size in asked if size is not None]
    largest = asked[2] or _most(defaults[2], *given)
    least = asked[0] or _least(defaults[0], *given)
    usual = asked[1] or _most(_least(defaults[1], largest), least)
    for height, width in (least, usual, largest):
        if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
            raise BadInput(f"size {height}x{width} is not of multiples of {SIZE_MULTIPLE}")
    for low, middle, high in zip(least, usual, largest, strict=True):
        if not SIZE_MULTIPLE <= low <= middle <= high <= MAX_SIDE:
            sizes = ", ".join(f"{height}x{width}" for height, width in (least, usual, largest))
            raise BadInput(
                f"sizes {sizes} (least, usual, largest) must not fall and be within "
                f"{SIZE_MULTIPLE}..{MAX_SIDE}"
            )
    return least, usual, largest


def _least(*sizes: Size) -> Size:
    return min(height for height, _ in sizes), min(width for _, width in sizes)


def _most(*sizes: Size) -> Size:
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def build_engine(model: Path, precision: Precision, options: BuildOptions) -> Engine:
    """Build one engine of the exported model in a folder (`exports/<name>`), beside its ONNX files,
    with a record of what it is. Both take their places when they are whole; earlier ones stay when
    anything fails. Raises ArtifactError where the export is missing, stale or was changed, BadInput
    where an option is out of range, StageFailed where something that the build needs is missing
    (with the container command that has it), the installed TensorRT is not the target's, an
    operator is not supported, the layers do not compute in the precision asked for, or the build
    failed."""
    options = replace(options, models=(model.name,), exports=model.parent, precision=precision)
    artifact = open_artifact(model, precision, Int8Target.TENSORRT)
    profile = profile_of(artifact.manifest, options)
    machine = machine_for(options)
    onnx = artifact.onnx_path(precision, Int8Target.TENSORRT)
    with spinner(f"{artifact.manifest.name}: building in {precision}"):
        plan = plan_from_onnx(onnx, profile, options, machine)
    gpu = machine.gpu
    capability = gpu.compute_capability if gpu else None
    name = engine_file_name(precision, options.flavor, capability)
    with staging_directory(artifact.directory) as staging:
        path = staging / name
        path.write_bytes(plan.content)
        header = read_plan_header(path)
        if not header.is_of(options.flavor, machine.version):
            raise StageFailed(
                f"{options.flavor.product} {machine.version} built a plan that says "
                f"{header.flavor.product} {header.version}; please report it"
            )
        record = EngineRecord(
            plan=name,
            size=len(plan.content),
            sha256=sha256_of(path),
            flavor=options.flavor,
            version=machine.version,
            precision=precision,
            gpu=gpu.name if gpu else None,
            compute_capability=capability,
            target_compute_capabilities=machine.targets,
            flags=_flags(options),
            profile=profile,
            source=onnx.name,
            source_sha256=artifact.manifest.files[onnx.name].sha256,
            target=options.target,
            network_layers=plan.network_layers,
            inspected_layers=plan.inspected_layers,
            seconds=round(plan.seconds, 2),
            created=now(),
            command=options.command_line(),
        )
        record_path(path).write_text(record.as_text(), encoding="utf-8")
        more = {"source_sha256": record.source_sha256, "flavor": options.flavor}
        listed = file_record(path, precision, record.command, **more)

        def with_plan(old: Manifest) -> Manifest:
            source = old.files.get(onnx.name)
            if source is None or source.sha256 != record.source_sha256:
                raise StageFailed(f"{onnx.name} changed while {name} was built; build it again")
            return old.model_copy(update={"files": {**old.files, name: listed}})

        files = {name: path, record_path(path).name: record_path(path)}
        update_manifest(artifact.directory, with_plan, files)
    return Engine(artifact.directory / name, record)


def _flags(options: BuildOptions) -> BuildFlags:
    return BuildFlags(
        tf32=options.tf32,
        optimization_level=options.optimization_level,
        workspace_bytes=None if options.workspace is None else options.workspace * 2**20,
        hardware_compatible=options.hardware_compatible,
        version_compatible=options.version_compatible,
        weights_stripped=options.strip_weights,
    )
