"""One plan of an exported model, with the record of what it holds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artifact import file_record, open_artifact, update_manifest
from ..errors import StageFailed
from ..files import sha256_of, staging_directory
from ..manifest import Manifest
from ..progress import spinner
from ..provenance import now
from ..types import Int8Target, Precision
from .builder import plan_from_onnx
from .engine import Engine, engine_file_name
from .machine import machine_for
from .options import BuildOptions
from .plan_header import read_plan_header
from .profiles import profile_of
from .record import BuildFlags, EngineRecord, record_path


def build_engine(
    model: Path, precision: Precision, options: BuildOptions | None = None, **fields: Any
) -> Engine:
    """Build one engine of an exported model, beside its ONNX files, with a record of what it is.

    The plan and its record take their places when both are whole; earlier ones stay when anything
    fails.

    model: folder of the exported model (`exports/<name>`).
    options, fields: how it is built; fields of `BuildOptions` take the place of those of `options`.
    Raises ArtifactError where the export is missing, stale or was changed, BadInput where an option
    is out of range, StageFailed where something that the build needs is missing (with the container
    command that has it), the installed TensorRT is not the target's, an operator is not supported,
    the layers do not compute in the precision asked for, or the build failed.
    """
    fields |= {"models": (model.name,), "exports": model.parent, "precision": precision}
    options = replace(options or BuildOptions(), **fields)
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
