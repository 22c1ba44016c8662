"""`convert`: an exported model to a file of lower precision, compared with the FP32 one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from ..artifact import Artifact, file_record, open_artifact, update_manifest
from ..compare import Comparison, comparison_of
from ..compare.agreement import checks, room
from ..errors import StageFailed
from ..files import staging_directory
from ..manifest import Calibration, ConversionRecord, Manifest
from ..names import onnx_file
from ..pipeline import Pipeline
from ..progress import spinner, warn
from ..provenance import now, timed, tool_versions
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..types import Int8Target, Precision
from .calibration import CalibrationImages, calibration_images, is_dense
from .checks import compare_with_fp32, require_layers
from .conversions import Conversion, Fp16Conversion, Int8Conversion
from .graph_tensors import load_exported
from .kept_nodes import KeptNodes, reasons
from .openvino_int8 import OpenVINOInt8Conversion
from .options import ConvertOptions
from .search import SearchGoal, Trials, candidates, score_of, units_to_keep

_TOOLS = ("dfvt-deploy", "nvidia-modelopt", "nncf", "onnx", "numpy")


@dataclass(frozen=True)
class Converted:
    """A file that was just made; `kept` says why nodes stayed in FP32, by name."""

    artifact: Artifact
    file: Path
    record: ConversionRecord
    kept: KeptNodes

    def as_json(self) -> dict[str, Any]:
        """The document of `--json`: the record of the file, and its entry in the manifest."""
        manifest = self.artifact.manifest
        return {
            "name": manifest.name,
            "file": str(self.file),
            **manifest.files[self.file.name].model_dump(mode="json"),
            "conversion": self.record.model_dump(mode="json"),
            "kept": dict(self.kept),
        }


def convert(
    directory: str | Path,
    precision: Precision | str,
    *,
    goal: SearchGoal | None = None,
    **fields: Any,
) -> Converted:
    """Make the FP16 file of an exported model, or the INT8 file for one of the targets.

    The file is run in onnxruntime (for OpenVINO there) beside FP32 before it takes its place; an
    earlier file stays when anything fails. FP16 is also run with every FP16 tensor rounded, since
    onnxruntime on a CPU computes FP16 in FP32 (see docs/precision.md).

    directory: folder of the exported model (`exports/<name>`).
    goal: what `search` looks for; by default the agreement with FP32 within the limits.
    fields: further fields of `ConvertOptions`.
    Raises BadInput where an option, the exported model or a calibration image cannot be used,
    MissingDependency where ModelOpt is not installed (FP16), StageFailed where a step failed, a
    value is not finite, or a limit does not hold.
    """
    return convert_with(directory, ConvertOptions(precision=Precision(precision), **fields), goal)


def convert_with(
    directory: str | Path, options: ConvertOptions, goal: SearchGoal | None = None
) -> Converted:
    """`convert` with its options as one object; `directory` takes the place of their models."""
    directory = Path(directory)
    options = replace(options.resolved(), models=(directory.name,), exports=directory.parent)
    artifact = open_artifact(directory, Precision.FP32)
    manifest, precision = artifact.manifest, options.precision
    seconds: dict[str, float] = {}
    images = _images(manifest, options)
    with staging_directory(directory) as staging:
        conversion = _conversion(artifact, options, staging)
        conversion.least_kept(options.keep_fp32)  # refuses unknown names before the work
        with (
            timed("reference", seconds),
            spinner(f"{manifest.name}: running FP32"),
            OnnxRuntimeRunner(artifact.onnx_path()) as reference,
        ):
            comparison = Comparison(manifest.task, images.compared(), reference)
        limits = comparison_of(manifest.task).breakage_limits(precision, options.min_agreement)
        text = f"{manifest.name}: calibrating on {len(images)} images"
        with timed("calibrate", seconds), spinner(text):
            conversion.calibrate(images)
        found = manifest.keep_fp32.get(precision, ())
        if options.search is not None:
            goal = goal or SearchGoal(
                name=f"agreement with FP32 within {limits}",
                limit=0.0,
                score=lambda runner: room(checks(comparison.agreement(runner), limits)),
            )
            with timed("search", seconds):
                found = _search(artifact, options, conversion, goal, images)
        kept = conversion.kept(options.keep_fp32, found)
        if error := conversion.overflow(kept):
            raise error
        with timed("convert", seconds), spinner(f"{manifest.name}: converting to {precision}"):
            result = conversion.result(kept)
        counts = conversion.count(result, kept)
        require_layers(manifest.name, counts, precision)
        path = staging / onnx_file(precision, options.target)
        onnx.save_model(result, path)
        with timed("check", seconds), spinner(f"{manifest.name}: comparing with FP32"):
            checked = compare_with_fp32(conversion, kept, path, comparison, limits, precision)
        record = ConversionRecord(
            created=now(),
            command=options.command_line(),
            versions=tool_versions(*_TOOLS),
            calibration=Calibration(
                source=images.source,
                images=len(images),
                method=options.range_method,
            ),
            target=options.target if precision is Precision.INT8 else None,
            weight_bits=options.weight_bits,
            kept_fp32=tuple(sorted({*options.keep_fp32, *found})),
            operators=counts,
            reasons=reasons(conversion.graph, kept),
            checks=checked,
            seconds={key: round(value, 2) for key, value in seconds.items()},
        )
        return _written(artifact, options, path, record, kept, {precision: found} if found else {})


def _written(
    artifact: Artifact,
    options: ConvertOptions,
    path: Path,
    record: ConversionRecord,
    kept: KeptNodes,
    searched: Mapping[Precision, tuple[str, ...]],
) -> Converted:
    """Put the new file in the model's folder and its record in the manifest, in one step."""
    source = artifact.manifest.files[artifact.onnx_path().name]
    listed = file_record(path, options.precision, record.command, source_sha256=source.sha256)

    def with_file(old: Manifest) -> Manifest:
        if old.files[artifact.onnx_path().name] != source:
            raise StageFailed(
                f"{artifact.onnx_path()} changed while it was converted; convert it again"
            )
        return old.model_copy(
            update={
                "files": {**old.files, path.name: listed},
                "conversions": {**old.conversions, path.name: record},
                "keep_fp32": {**old.keep_fp32, **searched},
            }
        )

    manifest = update_manifest(artifact.directory, with_file, {path.name: path})
    return Converted(
        Artifact(artifact.directory, manifest), artifact.directory / path.name, record, kept
    )


def _conversion(artifact: Artifact, options: ConvertOptions, scratch: Path) -> Conversion:
    model = load_exported(artifact.onnx_path(), artifact.manifest)
    if options.precision is Precision.FP16:
        return Fp16Conversion(model, scratch, options.data_max)
    seven = options.weight_bits == 7
    if options.target is Int8Target.OPENVINO:
        return OpenVINOInt8Conversion(model, scratch, is_dense(artifact.manifest), seven)
    return Int8Conversion(model, scratch, options.method, options.target, seven)


def _images(manifest: Manifest, options: ConvertOptions) -> CalibrationImages:
    if Pipeline(manifest).has_fixed_size:
        options.refuse(f"is for models of any size, {manifest.name} has one; omit it", "max_side")
    most = options.most_images(is_dense(manifest))
    images = calibration_images(
        manifest, options.calibration, images=most, max_side=options.max_side
    )
    if options.precision is Precision.INT8:
        if options.calibration is None:
            warn("INT8 is calibrated on three sample images; give --calibration with yours")
        elif len(images) < most:
            warn(
                f"INT8 is calibrated on {len(images)} images, all that {options.calibration} "
                f"holds; {most} are used where there are so many"
            )
    return images


def _search(
    artifact: Artifact,
    options: ConvertOptions,
    conversion: Conversion,
    goal: SearchGoal,
    images: CalibrationImages,
) -> tuple[str, ...]:
    """Names of nodes, or operators, that a search found. A killed search is gone on with."""
    assert options.search is not None
    names = candidates(conversion, options.search, options.keep_fp32)
    key = {
        "source": artifact.manifest.files[artifact.onnx_path().name].sha256,
        "images": images.digest(),
        "settings": [
            *(options.precision, options.method, options.target),
            *(options.weight_bits, options.max_side),
        ],
        "asked": sorted(options.keep_fp32),
        "goal": [goal.name, goal.limit],
        "candidates": names,
    }
    file = onnx_file(options.precision, options.target)
    suffix = file.removeprefix("model.").removesuffix(".onnx")
    trials = Trials(artifact.directory / f"search.{suffix}.json", key)
    found = units_to_keep(
        names,
        lambda kept: score_of(conversion, goal, options.keep_fp32, kept),
        goal.limit,
        trials,
    )
    trials.done()
    return found
