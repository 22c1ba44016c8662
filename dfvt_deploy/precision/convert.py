"""`convert`: an exported model to a file of lower precision, compared with the FP32 one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from ..artifact import Artifact, file_record, open_artifact, update_manifest
from ..compare import Comparison, comparison_of
from ..compare.agreement import Limit, checks, room
from ..engines.layers import LEAST_SHARE
from ..errors import StageFailed
from ..files import staging_directory
from ..manifest import Calibration, Check, ConversionRecord, Manifest
from ..names import onnx_file
from ..pipeline import Pipeline
from ..progress import spinner, warn
from ..provenance import now, timed, tool_versions
from ..runners import open_network
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..types import Int8Target, Precision
from .calibration import CalibrationImages, calibration_images, is_dense
from .conversions import Conversion, KeptNodes
from .fp16 import OperatorCounts
from .fp16_conversion import Fp16Conversion
from .graph_tensors import LAYERS, load_exported
from .int8 import Int8Conversion
from .openvino_int8 import OpenVINOInt8Conversion
from .options import ConvertOptions
from .search import SearchGoal, search

_TOOLS = ("dfvt-deploy", "nvidia-modelopt", "nncf", "onnx", "numpy")

#: Images on which every tensor inside a good FP16 network is examined.
_EXAMINED = 2


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
    name, file = manifest.name, onnx_file(precision, options.target)
    seconds: dict[str, float] = {}
    images = _images(manifest, options)
    with staging_directory(directory) as staging:
        conversion = _conversion(artifact, options, staging)
        conversion.kept(options.keep_fp32)  # refuses unknown names before the work
        with (
            timed("reference", seconds),
            spinner(f"{name}: running FP32"),
            OnnxRuntimeRunner(artifact.onnx_path()) as reference,
        ):
            comparison = Comparison(manifest.task, images.compared(), reference)
        limits = comparison_of(manifest.task).breakage_limits(precision, options.min_agreement)
        with timed("calibrate", seconds), spinner(f"{name}: calibrating on {len(images)} images"):
            conversion.calibrate(images)
        found = manifest.keep_fp32.get(precision, ())
        if options.search is not None:
            goal = goal or SearchGoal(
                name=f"agreement with FP32 within {limits}",
                limit=0.0,
                score=lambda runner: room(checks(comparison.agreement(runner), limits)),
            )
            key = {
                "source": manifest.files[artifact.onnx_path().name].sha256,
                "images": images.digest(),
                "settings": [file, options.method, options.weight_bits, options.max_side],
            }
            trials = directory / file.replace("model", "search").replace(".onnx", ".json")
            with timed("search", seconds):
                found = search(conversion, goal, options.search, options.keep_fp32, trials, key)
        kept = conversion.kept(options.keep_fp32, found)
        if error := conversion.overflow(kept):
            raise error
        with timed("convert", seconds), spinner(f"{name}: converting to {precision}"):
            result = conversion.result(kept)
        counts = conversion.count(result, kept)
        _require_layers(name, counts, precision)
        path = staging / file
        onnx.save_model(result, path)
        with timed("check", seconds), spinner(f"{name}: comparing with FP32"):
            checked = _compared_with_fp32(conversion, kept, path, comparison, limits, precision)
        used = Calibration(source=images.source, images=len(images), method=options.range_method)
        record = ConversionRecord(
            created=now(),
            command=options.command_line(),
            versions=tool_versions(*_TOOLS),
            calibration=used,
            target=options.target if precision is Precision.INT8 else None,
            weight_bits=options.weight_bits,
            kept_fp32=tuple(sorted({*options.keep_fp32, *found})),
            operators=counts,
            reasons=conversion.reasons(kept),
            checks=checked,
            seconds=seconds,
        )
        return _written(artifact, precision, path, record, kept, found)


def _written(
    artifact: Artifact,
    precision: Precision,
    path: Path,
    record: ConversionRecord,
    kept: KeptNodes,
    found: tuple[str, ...],
) -> Converted:
    """Put the new file in the model's folder, and its record and what a search found in the
    manifest, in one step."""
    directory, model = artifact.directory, artifact.onnx_path()
    source = artifact.manifest.files[model.name]
    listed = file_record(path, precision, record.command, source_sha256=source.sha256)

    def with_file(old: Manifest) -> Manifest:
        if old.files[model.name] != source:
            raise StageFailed(f"{model} changed while it was converted; convert it again")
        changed = {
            "files": {**old.files, path.name: listed},
            "conversions": {**old.conversions, path.name: record},
            "keep_fp32": {**old.keep_fp32, **({precision: found} if found else {})},
        }
        return old.model_copy(update=changed)

    manifest = update_manifest(directory, with_file, {path.name: path})
    return Converted(Artifact(directory, manifest), directory / path.name, record, kept)


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


def _require_layers(name: str, counts: OperatorCounts, precision: Precision) -> None:
    """Raise StageFailed where no layer has the precision; warn where `build-trt` wants more."""
    rows = [row for operator, row in counts.items() if operator in LAYERS]
    total = sum(sum(row.values()) for row in rows)
    found = sum(row.get(precision, 0) for row in rows)
    if not found:
        raise StageFailed(
            f"none of the {total} layers of {name} would compute in {precision}: that is the "
            "float32 model under another name, so it was not written. Keep less with --keep-fp32, "
            "search with other limits, or raise --data-max"
        )
    if found < LEAST_SHARE[precision] * total:
        warn(
            f"{name}: {found} of {total} layers compute in {precision}, "
            f"build-trt wants {LEAST_SHARE[precision]:.0%}"
        )


def _compared_with_fp32(
    conversion: Conversion,
    kept: KeptNodes,
    file: Path,
    comparison: Comparison,
    limits: Sequence[Limit],
    precision: Precision,
) -> tuple[Check, ...]:
    """Run the file in the runtime of its conversion beside FP32, and FP16 also with every tensor
    rounded; the checks that were made, which all passed. Raises StageFailed where a limit does not
    hold, or a value is not finite."""
    done: tuple[Check, ...] = ()
    if isinstance(conversion, Fp16Conversion):
        trial = conversion.trial(kept)
        with OnnxRuntimeRunner(trial.SerializeToString()) as runner:
            agreement = comparison.agreement(runner)
        done = checks(agreement, limits, "FP16, each tensor rounded, against FP32")
        # Values that are not finite inside need not show in the outputs: some images are examined
        # in any case, and all where a limit does not hold.
        good = all(check.passed for check in done)
        examined = comparison.feeds[: _EXAMINED if good else None]
        if error := conversion.overflow_inside(trial, kept, examined):
            raise error
    with open_network(file, conversion.runtime, precision) as runner:
        agreement = comparison.agreement(runner)
    done += checks(agreement, limits, f"{precision} file in {conversion.runtime} against FP32")
    for check in done:
        if not check.passed:
            raise StageFailed(
                f"{check}; the file was not written. Keep more with --keep-fp32, look for what "
                "with --search nodes, or give another --min-agreement"
            )
    return done
