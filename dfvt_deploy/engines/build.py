"""One plan of an exported model: the shapes it takes, and the record of what it holds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from ..artifact import file_record, open_artifact, update_manifest
from ..errors import BadInput, StageFailed
from ..files import staging_directory
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

#: The smallest, the usual and the largest value. An engine is fastest at the usual one.
Range: TypeAlias = tuple[int, int, int]


def profile_of(manifest: Manifest, options: BuildOptions) -> dict[str, ShapeProfile]:
    """The shapes of each input of a model, by the input's name. Raises BadInput where a number is
    out of range, or a canvas is given for a model of one size."""
    batches = (options.min_batch, options.opt_batch, options.max_batch)
    usual = manifest.task.entry("tasks", "ENGINE_BATCHES")
    ranges = {"batch": _range("batches", batches, usual, 1, MAX_BATCH)}
    sizes = (options.min_size, options.opt_size, options.max_size)
    defaults = default_sizes(manifest)
    if defaults is None and any(sizes):
        raise BadInput(f"{manifest.name} has a fixed size; leave --min/--opt/--max-size out")
    for height, width in filter(None, sizes):
        if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
            raise BadInput(f"size {height}x{width} is not of multiples of {SIZE_MULTIPLE}")
    for axis, name in enumerate(("height", "width") if defaults else ()):
        asked = [size and size[axis] for size in sizes]
        usual = [size[axis] for size in defaults or ()]
        ranges[name] = _range(f"{name}s", asked, usual, SIZE_MULTIPLE, MAX_SIDE)
    profile = {}
    for spec in manifest.inputs:
        dims = (ranges[dim] if isinstance(dim, str) else (dim, dim, dim) for dim in spec.shape)
        least, middle, most = zip(*dims, strict=True)
        profile[spec.name] = ShapeProfile(min=least, opt=middle, max=most)
    return profile


def default_sizes(manifest: Manifest) -> tuple[Size, Size, Size] | None:
    """The smallest, the usual and the largest canvas of an engine by default, the largest for any
    image; None for a model of one size."""
    if not any("height" in spec.shape for spec in manifest.inputs):
        return None
    largest = next_multiple(manifest.task.entry("tasks", "LONG_SIDE"))
    usual = manifest.task.entry("tasks", "USUAL_SIZE")
    return (SIZE_MULTIPLE, SIZE_MULTIPLE), usual, (largest, largest)


def _range(
    what: str, asked: Sequence[int | None], defaults: Sequence[int], low: int, high: int
) -> Range:
    """The numbers that were asked for; the others are the defaults, or as near as these allow."""
    given = [number for number in asked if number is not None]
    largest = max([defaults[2], *given]) if asked[2] is None else asked[2]
    least = min([defaults[0], *given]) if asked[0] is None else asked[0]
    usual = min(max(defaults[1], least), largest) if asked[1] is None else asked[1]
    if not low <= least <= usual <= largest <= high:
        raise BadInput(
            f"{what} {least}, {usual}, {largest} (least, usual, largest) must not fall and be "
            f"within {low}..{high}"
        )
    return least, usual, largest


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
    source, command = artifact.manifest.files[onnx.name], options.command_line()
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
        more = {"source_sha256": source.sha256, "flavor": options.flavor}
        listed = file_record(path, precision, command, **more)
        record = EngineRecord(
            plan=name,
            size=listed.size,
            sha256=listed.sha256,
            flavor=options.flavor,
            version=machine.version,
            precision=precision,
            gpu=gpu.name if gpu else None,
            compute_capability=capability,
            target_compute_capabilities=machine.targets,
            flags=_flags(options),
            profile=profile,
            source=onnx.name,
            source_sha256=source.sha256,
            target=options.target,
            network_layers=plan.network_layers,
            inspected_layers=plan.inspected_layers,
            seconds=round(plan.seconds, 2),
            created=now(),
            command=command,
        )
        record_path(path).write_text(record.as_text(), encoding="utf-8")

        def with_plan(old: Manifest) -> Manifest:
            found = old.files.get(onnx.name)
            if found is None or found.sha256 != source.sha256:
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
