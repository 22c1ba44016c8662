"""`convert`: an exported model to a file of lower precision, compared with the FP32 one."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from ..artifact import (
    ONNX_FILES,
    Artifact,
    Calibration,
    Check,
    ConversionRecord,
    Manifest,
    file_record,
    now,
    open_artifact,
    update_manifest,
)
from ..engines.layers import LEAST_SHARE
from ..errors import BadInput, StageFailed
from ..files import staged
from ..progress import stage, warn
from ..runners.onnx_runtime import OnnxRuntimeRunner
from ..types import Int8Target, Precision, RangeMethod, SearchUnit, Task
from .calibration import DEFAULT_SIDE, CalibrationImages, calibration_images
from .comparison import DEFAULT_LIMITS, Comparison, Limits, checks, margin
from .graph_tensors import LAYERS
from .half import Census
from .half_plan import DEFAULT_LARGEST, half_nodes
from .methods import Method, Plan, ToHalf, ToInt8
from .provenance import timed, tool_versions
from .search import SearchGoal, Trials, units_to_keep

_TOOLS = ("dfvt-deploy", "nvidia-modelopt", "onnx", "numpy")

#: Images on which every tensor of a good FP16 file is looked at.
_LOOKED_THROUGH = 2

#: Most images that are calibrated on, by default. Dense ones are large.
_IMAGES = {Precision.FP16: (64, 16), Precision.INT8: (256, 32)}


@dataclass(frozen=True)
class Converted:
    """A file of an artifact that was just made. `plan`: why nodes stayed in FP32, by name."""

    artifact: Artifact
    file: Path
    record: ConversionRecord
    plan: Plan

    def as_json(self) -> dict[str, Any]:
        """For `--json`: the record of the file and what the manifest says of it."""
        manifest = self.artifact.manifest
        return {
            "name": manifest.name,
            "file": str(self.file),
            **manifest.files[self.file.name].model_dump(mode="json"),
            "conversion": self.record.model_dump(mode="json"),
            "kept": dict(self.plan),
        }


def convert(
    directory: str | Path,
    precision: Precision | str,
    *,
    calibration: str | Path | None = None,
    images: int | None = None,
    max_side: int = DEFAULT_SIDE,
    keep_fp32: Sequence[str] = (),
    largest: float = DEFAULT_LARGEST,
    method: RangeMethod | str = RangeMethod.ENTROPY,
    target: Int8Target | str = Int8Target.CPU,
    search: SearchUnit | str | None = None,
    goal: SearchGoal | None = None,
    min_agreement: float | None = None,
) -> Converted:
    """Make `model.fp16.onnx` or `model.int8.onnx` from an artifact's `model.onnx`.

    The file is run in onnxruntime against FP32 before it takes its place; what was there before
    stays when anything fails. FP16 is also run with every half tensor rounded, since onnxruntime
    on a CPU computes FP16 in FP32; see docs/precision.md.

    Args:
        calibration: folder of images like those the model will see; parts of the package's
            samples without it.
        images: most that are taken of the folder; by default 64 for FP16, 256 for INT8, a
            quarter and an eighth of that for dense tasks.
        max_side: longest side of a dense model's canvas while calibrating and comparing.
        keep_fp32: names of nodes, or operators, to keep in FP32, besides those that an earlier
            search found.
        largest: FP16: nodes that touch larger absolute values on any image stay FP32.
        method: INT8: how ranges are chosen.
        target: INT8: what will run the file.
        search: look for nodes or operators to keep so that `goal` is met, write them to the
            manifest and use them.
        goal: what the search wants; by default that the file agrees with FP32 within the limits.
        min_agreement: least share of images with the same best class, of equal pixels or of
            detections found again, 0 to 1, in place of the default.

    Raises:
        BadInput: an argument or the artifact cannot be used.
        MissingDependency: ModelOpt is not installed (FP16).
        StageFailed: a step failed, a value is not finite, or a limit does not hold.
    """
    precision = Precision(precision)
    if precision is Precision.FP32:
        raise BadInput("fp32 is what export writes; --precision takes fp16 or int8")
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise BadInput(f"--min-agreement {min_agreement} is outside 0..1")
    if not largest > 0:  # nan is not either
        raise BadInput(f"--largest {largest:g} is not above 0; inf leaves ranges out of account")
    artifact = open_artifact(directory, Precision.FP32)
    manifest, source = artifact.manifest, artifact.onnx_path()
    dense = manifest.task is not Task.CLASSIFICATION
    chosen = calibration_images(
        manifest,
        calibration,
        images=_IMAGES[precision][dense] if images is None else images,
        max_side=max_side,
    )
    if precision is Precision.INT8 and calibration is None:
        warn("INT8 is calibrated on three sample images; give --calibration with yours")
    work: ToHalf | ToInt8
    if precision is Precision.FP16:
        work = ToHalf(source, largest)
    else:
        work = ToInt8(source, RangeMethod(method), Int8Target(target))
    limits = DEFAULT_LIMITS[precision, manifest.task].agreeing(min_agreement)
    work.least_plan(keep_fp32)  # refuses unknown names before anything is measured
    seconds: dict[str, float] = {}
    with (
        timed("reference", seconds),
        stage(f"{manifest.name}: running FP32"),
        OnnxRuntimeRunner(source) as reference,
    ):
        comparison = Comparison(manifest.task, chosen.compared(), reference)
    with (
        timed("calibrate", seconds),
        stage(f"{manifest.name}: calibrating on {len(chosen)} images"),
    ):
        work.calibrate(chosen)

    found = manifest.keep_fp32.get(precision, ())
    if search is not None:
        with timed("search", seconds):
            found = _search(
                artifact,
                precision,
                work,
                SearchUnit(search),
                goal or _agreement_goal(comparison, limits),
                keep_fp32,
                {
                    "source": manifest.files[source.name].sha256,
                    "images": chosen.digest(),
                    "settings": [precision, method, target, max_side],
                    "asked": sorted(keep_fp32),
                },
            )
    plan = work.plan(keep_fp32, found)
    work.check_ranges(plan)
    with timed("convert", seconds), stage(f"{manifest.name}: converting to {precision}"):
        result = work.result(plan)
    operators = work.count(result, plan)
    _require_layers(manifest.name, operators, precision)
    file = artifact.directory / ONNX_FILES[precision]
    with staged(file) as temporary:
        onnx.save_model(result, temporary)
        with timed("check", seconds), stage(f"{manifest.name}: comparing with FP32"):
            made = _compared(work, plan, temporary, comparison, limits, precision)
        for check in made:
            if not check.passed:
                raise StageFailed(
                    f"{check.name} is {check.figure:.3g}, the limit is {check.limit:.3g}; {file} "
                    "was not written. Keep more with --keep-fp32, look for what with "
                    "--search nodes, or give another --min-agreement"
                )
        record = ConversionRecord(
            created=now(),
            command=_command(
                manifest, precision, chosen, keep_fp32, largest, method, target, max_side
            ),
            versions=tool_versions(*_TOOLS),
            calibration=Calibration(
                source=chosen.source,
                images=len(chosen),
                method=str(method) if precision is Precision.INT8 else None,
            ),
            target=Int8Target(target) if precision is Precision.INT8 else None,
            kept_fp32=tuple(sorted({*keep_fp32, *found})),
            operators=operators,
            reasons=_reasons(work, plan),
            checks=made,
            seconds={key: round(value, 2) for key, value in seconds.items()},
        )
        listed = file_record(temporary, precision, manifest.files[source.name].sha256)
        # Out of the list while it is replaced: listed with another hash the folder is refused.
        update_manifest(artifact.directory, lambda old: _without(old, file.name))
    manifest = update_manifest(
        artifact.directory,
        lambda old: old.model_copy(
            update={
                "files": {**old.files, file.name: listed},
                "conversions": {**old.conversions, file.name: record},
                "keep_fp32": {**old.keep_fp32, precision: found} if found else old.keep_fp32,
            }
        ),
    )
    return Converted(Artifact(artifact.directory, manifest), file, record, plan)


def _search(
    artifact: Artifact,
    precision: Precision,
    work: Method,
    unit: SearchUnit,
    goal: SearchGoal,
    asked: Sequence[str],
    key: Mapping[str, object],
) -> tuple[str, ...]:
    """Names of nodes, or operators, to keep. `key`: what trials of an interrupted search must
    have in common with this one, besides the goal and the candidates."""
    least = work.least_plan(asked)
    names = half_nodes(work.graph, least)
    if unit is SearchUnit.OPERATORS:
        operators = {node.name: node.op_type for node in work.graph.nodes}
        names = list(dict.fromkeys(operators[name] for name in names))

    def score(kept: Collection[str]) -> float:
        plan = dict(least) | {
            node.name: ""
            for node in work.graph.nodes
            if {node.name, node.op_type} & set(kept) and work.graph.computes(node)
        }
        try:
            work.check_ranges(plan)
        except StageFailed:
            return -math.inf
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "trial.onnx"
            onnx.save_model(work.trial(plan), file)
            with OnnxRuntimeRunner(file) as runner:
                return goal.score(runner)

    trials = Trials(
        artifact.directory / f"search.{precision}.json",
        {**key, "goal": [goal.name, goal.limit], "candidates": names},
    )
    found = units_to_keep(names, score, goal.limit, trials)
    trials.done()
    return found


def _agreement_goal(comparison: Comparison, limits: Limits) -> SearchGoal:
    return SearchGoal(
        name=f"agreement with FP32 within {limits}",
        limit=0.0,
        score=lambda runner: margin(comparison.agreement(runner), limits),
    )


def _compared(
    work: ToHalf | ToInt8,
    plan: Plan,
    file: Path,
    comparison: Comparison,
    limits: Limits,
    precision: Precision,
) -> tuple[Check, ...]:
    """The file in onnxruntime, and FP16 as it rounds, beside FP32."""
    made: tuple[Check, ...] = ()
    if isinstance(work, ToHalf):
        trial = work.trial(plan)
        with tempfile.TemporaryDirectory() as folder:
            emulated = Path(folder) / "emulated.onnx"
            onnx.save_model(trial, emulated)
            with OnnxRuntimeRunner(emulated) as runner:
                agreement = comparison.agreement(runner)
        made = checks(agreement, limits, "FP16, each tensor rounded, against FP32")
        # What is not finite inside shows in the answers, or not: a few images are looked through
        # in any case, and all where something is wrong.
        good = all(check.passed for check in made)
        work.check_trial(trial, comparison.feeds[: _LOOKED_THROUGH if good else None])
    with OnnxRuntimeRunner(file) as runner:
        agreement = comparison.agreement(runner)
    return made + checks(agreement, limits, f"{precision} file in onnxruntime against FP32")


def _require_layers(name: str, operators: Census, precision: Precision) -> None:
    """Refuse a float32 file under another name; say when `build-trt` will refuse it."""
    rows = [row for operator, row in operators.items() if operator in LAYERS]
    total, found = (
        sum(sum(row.values()) for row in rows),
        sum(row.get(precision, 0) for row in rows),
    )
    if not found:
        raise StageFailed(
            f"none of the {total} layers of {name} would compute in {precision}: that is the "
            "float32 model under another name, so it was not written. Keep less with --keep-fp32, "
            "search with other limits, or raise --largest"
        )
    if found < LEAST_SHARE[precision] * total:
        warn(
            f"{name}: {found} of {total} layers compute in {precision}, "
            f"build-trt wants {LEAST_SHARE[precision]:.0%}"
        )


def _reasons(work: Method, plan: Plan) -> dict[str, dict[str, int]]:
    counted: dict[str, Counter[str]] = {}
    for node in work.graph.nodes:
        if node.name in plan and node.op_type != "Constant":  # these become initializers
            counted.setdefault(plan[node.name], Counter())[node.op_type] += 1
    return {
        reason: dict(row.most_common())
        for reason, row in sorted(counted.items(), key=lambda item: -item[1].total())
    }


def _without(manifest: Manifest, name: str) -> Manifest:
    files = {key: value for key, value in manifest.files.items() if key != name}
    return manifest.model_copy(update={"files": files})


def _command(
    manifest: Manifest,
    precision: Precision,
    chosen: CalibrationImages,
    keep_fp32: Sequence[str],
    largest: float,
    method: RangeMethod | str,
    target: Int8Target | str,
    max_side: int,
) -> str:
    words = ["dfvt-deploy convert", manifest.name, f"--precision {precision}"]
    if chosen.source != "samples":
        words.append(f"--calibration {chosen.source}")
    words += [f"--keep-fp32 {name}" for name in keep_fp32]
    if precision is Precision.INT8:
        words += [f"--method {RangeMethod(method)}", f"--target {Int8Target(target)}"]
    elif largest != DEFAULT_LARGEST:
        words.append(f"--largest {largest:g}")
    if max_side != DEFAULT_SIDE:
        words.append(f"--max-side {max_side}")
    return " ".join(words)
