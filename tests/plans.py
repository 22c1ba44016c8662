"""Plans without a GPU: their header and record are right, the rest is noise.

Real TensorRT plans cannot be built where tests run. TensorRT-RTX's can, and are where it matters.
"""

from pathlib import Path

import numpy as np

from dfvt_deploy.artifact import open_artifact, update_manifest
from dfvt_deploy.engines.engine import engine_file_name
from dfvt_deploy.engines.record import (
    BuildFlags,
    ComputeLayers,
    EngineRecord,
    ShapeProfile,
    record_path,
)
from dfvt_deploy.files import sha256_of
from dfvt_deploy.gpu.devices import LIBRARIES
from dfvt_deploy.manifest import FileRecord
from dfvt_deploy.names import onnx_file
from dfvt_deploy.provenance import now
from dfvt_deploy.types import Flavor, Int8Target, Precision

#: Of the TensorRT that stand-in plans are built by.
RUNTIME = "11.1.0.106"


def stand_in_plan(
    directory: Path,
    profile: dict[str, list[tuple[int, ...]]],
    *,
    precision: Precision = Precision.FP16,
    flavor: Flavor = Flavor.TENSORRT,
    version: str = RUNTIME,
    compute_capability: str = "9.0",
    source_sha256: str = "0" * 64,
    **flags: bool,
) -> Path:
    """Write a plan and its record; `profile` is least, usual and largest shape by input."""
    rtx = flavor is Flavor.RTX
    name = engine_file_name(precision, flavor, None if rtx else compute_capability)
    path = directory / name
    directory.mkdir(parents=True, exist_ok=True)
    size = 4096
    header = LIBRARIES[flavor.value].magic + bytes(12) + size.to_bytes(8, "little")
    header += bytes(map(int, version.split(".")))
    noise = np.random.default_rng(len(compute_capability)).bytes(size - len(header))
    path.write_bytes(header + noise)
    record = EngineRecord(
        plan=name,
        size=size,
        sha256=sha256_of(path),
        flavor=flavor,
        version=version,
        precision=precision,
        compute_capability=None if rtx else compute_capability,
        flags=BuildFlags(optimization_level=3, **flags),
        profile={
            key: ShapeProfile(min=shapes[0], opt=shapes[1], max=shapes[2])
            for key, shapes in profile.items()
        },
        source=onnx_file(precision, Int8Target.TENSORRT),
        source_sha256=source_sha256,
        network_layers=ComputeLayers(source="network", layers={"CONVOLUTION": {"HALF": 40}}),
        seconds=1,
        created=now(),
        command="dfvt-deploy build-trt",
    )
    record_path(path).write_text(record.as_text())
    return path


def add_plan(artifact_directory: Path, profile, **options) -> Path:
    """A stand-in plan in the folder of an exported model, of its FP32 file, and in its manifest."""
    source = open_artifact(artifact_directory).manifest.files["model.onnx"].sha256
    options = {"precision": Precision.FP32, "source_sha256": source, **options}
    path = stand_in_plan(artifact_directory, profile, **options)
    entry = FileRecord(
        size=path.stat().st_size,
        sha256=sha256_of(path),
        precision=options["precision"],
        command="dfvt-deploy build-trt",
        flavor=options.get("flavor", Flavor.TENSORRT),
        source_sha256=source,
    )
    update_manifest(
        artifact_directory,
        lambda manifest: manifest.model_copy(
            update={"files": {**manifest.files, path.name: entry}}
        ),
    )
    return path
