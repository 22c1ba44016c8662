"""The settings that `tune` wrote into a manifest, where `populate` is given none."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

from ..artifact import Artifact, read_manifest
from ..cores import processor, usable_cores
from ..manifest import MANIFEST
from ..progress import note, warn
from ..tuned import Setting
from .options import PopulateOptions


def may_be_chosen(backend: str, precision: str, verdict: str) -> bool:
    """Whether a file may be recommended: it passed `validate`, or it is float32 in onnxruntime,
    which the others are compared with, and did not fail."""
    reference = (backend, precision) == ("onnxruntime", "fp32")
    return verdict == "passed" or (reference and verdict != "failed")


def with_tuned(directory: Path, options: PopulateOptions) -> PopulateOptions:
    """The options with the settings that `tune` chose, where none is given and they hold here and
    now; says which, or why not. Raises ArtifactError as `read_manifest` does."""
    if any(getattr(options, name) is not None for name in (*get_args(Setting), "device")):
        return options
    artifact = Artifact(directory, read_manifest(directory / MANIFEST))
    name, tuning = artifact.manifest.name, artifact.manifest.tuned
    if tuning is None or tuning.chosen is None:
        return options
    file, fields = tuning.chosen.file, tuning.chosen.model_dump()["settings"]
    tuned = replace(options, **fields)
    judged = artifact.verdict(file, tuned.precision)
    verdict = judged.verdict if judged else "unvalidated"
    here, there = (usable_cores(), processor()), (tuning.cores, tuning.machine)
    if here != there:
        reason = "are for {} cores of {}, and here are {} of {}".format(*there, *here)
    elif not may_be_chosen(tuned.chosen_backend, tuned.chosen_precision, verdict):
        reason = f"are for {file}, which is {verdict} now"
    else:
        words = ", ".join(f"{key} {value}" for key, value in fields.items())
        note(f"{name} gets the settings that `tune` found for {tuning.goal}: {words}")
        return tuned
    warn(f"{name} gets the defaults, as tuned settings {reason}; tune again: {tuning.command}")
    return options
