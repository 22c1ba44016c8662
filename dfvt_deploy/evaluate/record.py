"""The reports of a validation and the verdicts in the manifest."""

import math
from pathlib import Path

from ..artifact import Artifact, update_manifest
from ..files import staging_directory
from ..manifest import Manifest, Verdict
from ..names import judged_form
from .judge import failed_in_step
from .pictures import Picture
from .report import html_report
from .results import StageResult, Validation


def record_validation(
    found: Validation, pictures: dict[str, list[Picture]], directory: Path, *, verdicts: bool
) -> None:
    """Write the HTML and the JSON report into the folder of an exported model, in one step; with
    `verdicts` also the verdict about each file into the folder's manifest."""
    with staging_directory(directory) as staging:
        files = {name: staging / name for name in found.reports.values()}
        json_file, html_file = (files[found.reports[kind]] for kind in ("json", "html"))
        json_file.write_text(found.as_text(), encoding="utf-8")
        html_file.write_text(html_report(found, pictures), encoding="utf-8")

        def change(manifest: Manifest) -> Manifest:
            return with_verdicts(manifest, found) if verdicts else manifest

        update_manifest(directory, change, files)


def with_verdicts(manifest: Manifest, found: Validation) -> Manifest:
    """The manifest with a verdict about each file that was judged and has not changed since.

    A file fails if a stage on the way to it changed what it should not. A gate's verdict about a
    file stays where a run without a gate passes.
    """
    verdicts = dict(manifest.verdicts)
    for stage in found.stages:
        if stage.file is None or stage.outcome == "reference":
            continue
        record = manifest.files.get(stage.file)
        if record is None or record.sha256 != stage.sha256:
            continue
        outcome = "failed" if found.refused or _broken_before(found, stage) else stage.outcome
        stands = Artifact(Path(), manifest).verdict(stage.file, stage.precision, stage.fast_decode)
        if outcome == "passed" and stage.gate is None and stands is not None and stands.by_gate:
            continue
        verdicts[judged_form(stage.file, stage.precision, stage.fast_decode)] = Verdict(
            verdict=outcome,
            file_sha256=record.sha256,
            created=found.created,
            command=found.command,
            dataset=found.dataset,
            images=found.images,
            metric=found.metric or "agreement",
            figures=_figures(stage),
            report=found.reports["json"],
        )
    return manifest.model_copy(update={"verdicts": verdicts})


def _broken_before(found: Validation, stage: StageResult) -> bool:
    """Whether a stage on the way to this one changed what it should not."""
    while stage.source is not None:
        stage = found.stage(stage.source)
        if failed_in_step(stage):
            return True
    return False


def _figures(stage: StageResult) -> dict[str, float | None]:
    if stage.gate is not None:
        gate = stage.gate
        return {"drop": gate.drop, "upper_bound": gate.upper_bound, "limit": gate.limit}
    return {
        check.name: check.figure if math.isfinite(check.figure) else None
        for check in stage.total_checks
    }
