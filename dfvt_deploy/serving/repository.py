"""`populate`: an exported model as a new version in a Triton model repository."""

import io
import math
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from .. import tasks
from ..artifact import Artifact, open_artifact, read_manifest
from ..cores import int8_saturates, processor, usable_cores
from ..engines.engine import Engine
from ..errors import BadInput, StageFailed
from ..files import sha256_of, staging_directory, sync, write_text
from ..manifest import MANIFEST, Manifest, Setting
from ..names import STEPS
from ..progress import note, warn
from ..provenance import now
from . import config as pbtxt
from . import layout
from .backends import backend_of
from .history import go_live, passed, read_history, verdicts_on
from .options import PopulateOptions
from .served_model import ServedModel
from .tasks import served_task

#: What the copied steps need beside Triton's Python backend. Its compiled half is built against
#: numpy 1, and with numpy 2 the tensors it makes can arrive empty; Python 3.13 has no numpy 1.
REQUIREMENTS = """\
numpy>=1.26,<2; python_version < "3.13"
numpy>=2.1; python_version >= "3.13"
pillow>=10.3
opencv-python-headless>=4.8
"""

_PYTHON_MODELS = Path(__file__).parent / "python_models"


@dataclass(frozen=True)
class PopulatedModel:
    """The version of the ensemble `name` that `populate` added, and whether it is the live one."""

    name: str
    version: int
    repository: Path
    live: bool


def populate(
    model: str | Path,
    options: PopulateOptions | None = None,
    *,
    engines: Sequence[Engine] | None = None,
    **fields: Any,
) -> PopulatedModel:
    """Add a version of an exported model to a repository: ensemble, preprocess, network and
    postprocess.

    Files of earlier versions stay as they are. The newest version becomes live, in one step for the
    four models, unless `promote` is False, or the live version passed `validate` and the new one
    did not; until then, and if this process is killed, the earlier version stays live. With `to`
    the version is left to `promotion.live_versions.promote`.

    model: folder of the exported model (`exports/<name>`); without settings it gets `tune`'s.
    engines: the plans to serve, as `engines.engine.open_engine` gives them; all plans of the
        precision and flavor by default.
    fields: the fields of `PopulateOptions`, in place of `options`.
    Raises ArtifactError where the export or a plan is missing, stale or was changed, or a plan
    takes fewer images than the largest batch, GateFailed where a passing verdict is required, and
    the file has none, BadInput where the version exists, or an option does not fit the model,
    StageFailed where the repository cannot be written.
    """
    options = _with_tuned(Path(model), options or PopulateOptions(**fields))
    backend = options.chosen_backend
    artifact = open_artifact(model, options.file_precision, backend.facts.int8_target)
    name = artifact.manifest.name
    _check_top_k(artifact.manifest, options.top_k)
    files = backend_of(backend).files(artifact, options, engines)
    _warn_of_saturation(artifact, files.sources)
    if options.require_validated:
        for source in files.sources:
            form = source, options.chosen_precision, options.fast_decode
            verdict = artifact.require_validated(*form)
            note(f"{source} passed on {verdict.images:,} images of {verdict.dataset}")
    repository = options.repository
    with layout.changing(repository):
        layout.remove_incomplete(repository, name)
        version = _free_version(repository, name, options.version)
        with staging_beside(repository, name) as staging:
            _stage(staging, artifact, ServedModel(artifact.manifest, version, options, files))
            _move_in(staging, repository, name, version)
        if options.promote and not options.to and version == max(layout.versions(repository, name)):
            _go_live_unless_validated(repository, name, version)
        listed = repository / "requirements.txt"
        if not listed.is_file() or listed.read_text(encoding="utf-8") != REQUIREMENTS:
            write_text(listed, REQUIREMENTS)
    return PopulatedModel(
        name, version, repository, version == layout.live_version(repository, name)
    )


def _warn_of_saturation(artifact: Artifact, sources: Iterable[str]) -> None:
    for source in sources:
        record = artifact.manifest.conversions.get(source)
        if record and record.weight_bits == 8 and int8_saturates():
            warn(
                f"{source} has 8-bit weights; their products saturate on CPUs without VNNI, as on "
                "this one, so that answers differ from those of other CPUs; convert again with "
                "--weight-bits 7, or validate on the CPU that will serve"
            )


def _go_live_unless_validated(repository: Path, name: str, version: int) -> None:
    """Make a version live, but never in place of one that passed `validate` if it did not."""
    verdicts, live = verdicts_on(repository, name, version), layout.live_version(repository, name)
    changes = read_history(repository, name)
    validated = bool(changes) and changes[-1].version == live and not changes[-1].unvalidated
    if validated and not passed(verdicts):
        return warn(
            f"{name} version {live}, which passed validate, stays live: version {version} has no "
            f"passing verdict on {', '.join(verdicts)}; run validate before promote"
        )
    go_live(repository, name, version, "populate", verdicts=verdicts)


def _check_top_k(manifest: Manifest, top_k: int | None) -> None:
    name, classes = manifest.name, manifest.num_classes
    if top_k is not None and not served_task(manifest.task).top_k:
        raise BadInput(f"--top-k is for classification; {name} is of {manifest.task}")
    if top_k is not None and top_k > classes:
        raise BadInput(f"--top-k {top_k} is above the {classes} classes of {name}")


def _free_version(repository: Path, name: str, wanted: int | None) -> int:
    taken = layout.versions(repository, name)
    following = max(taken, default=0) + 1
    if wanted in taken:
        raise BadInput(
            f"{name} version {wanted} is in {repository} already; the next is {following}"
        )
    return wanted or following


@contextmanager
def staging_beside(repository: Path, name: str) -> Iterator[Path]:
    """An empty folder on the repository's file system where Triton does not look for models."""
    repository = repository.resolve()
    parent = repository.parent
    beside = repository.stat().st_dev == parent.stat().st_dev and os.access(parent, os.W_OK)
    with staging_directory(repository if beside else repository / name / "version") as staging:
        yield staging


def _stage(staging: Path, artifact: Artifact, served: ServedModel) -> None:
    """Write one version of the four models, whole, as it will be in the repository."""
    name, version = artifact.manifest.name, served.version
    steps = {step: staging / f"{name}_{step}" / str(version) for step in STEPS}
    ensemble = staging / name / str(version)
    for folder in (*steps.values(), ensemble):
        folder.mkdir(parents=True)
    for config in pbtxt.configs(served):
        file = ensemble / layout.config_files(name)[config.name]
        file.write_text(pbtxt.to_text(config), encoding="utf-8")
    for step in ("preprocess", "postprocess"):
        shutil.copyfile(_PYTHON_MODELS / f"{step}.py", steps[step] / "model.py")
        shutil.copyfile(_PYTHON_MODELS / "telemetry.py", steps[step] / "telemetry.py")
        code, ignored = Path(tasks.__file__).parent, shutil.ignore_patterns(layout.CACHE)
        shutil.copytree(code, steps[step] / "dfvt_tasks", ignore=ignored)
    _copy_network(steps["network"], artifact, served)
    labels = "".join(f"{label}\n" for label in artifact.manifest.labels)
    (steps["postprocess"] / "labels.txt").write_bytes(labels.encode())
    warmup = steps["preprocess"].parent / layout.WARMUP
    warmup.mkdir()
    (warmup / layout.warmup_file(version)).write_bytes(_encoded_sample(served.options.max_pixels))
    chosen = replace(served.options, models=(name,), exports=artifact.directory.parent)
    record = layout.VersionRecord(
        name=name,
        version=version,
        created=now(),
        command=chosen.command_line(),
        backend=chosen.chosen_backend,
        precision=chosen.chosen_precision,
        fast_decode=chosen.fast_decode,
        files=layout.hashes(staging, name, version),
    )
    (ensemble / layout.VERSION_RECORD).write_text(record.as_text(), encoding="utf-8")
    for path in (*staging.rglob("*"), staging):
        sync(path)


def _copy_network(folder: Path, artifact: Artifact, served: ServedModel) -> None:
    """Copy the network's files, the manifest and the reports of verdicts on the files."""
    for file, source in served.files.copied.items():
        shutil.copyfile(source, folder / file)
        record = artifact.manifest.files.get(source.name)
        if record is not None and sha256_of(folder / file) != record.sha256:
            raise StageFailed(f"{source} changed while it was copied; run populate again")
    shutil.copyfile(artifact.directory / MANIFEST, folder / MANIFEST)
    form = served.options.chosen_precision, served.options.fast_decode
    for source_name in served.files.sources:
        for report in artifact.reports(source_name, *form):
            shutil.copyfile(report, folder / report.name)


def _encoded_sample(max_pixels: int) -> bytes:
    """A small JPEG as Triton reads a BYTES tensor from a file: 4-byte length, then the bytes."""
    from PIL import Image

    file = io.BytesIO()
    side = min(256, math.isqrt(max_pixels))
    Image.linear_gradient("L").convert("RGB").resize((side, side)).save(file, "JPEG")
    return struct.pack("<I", len(file.getvalue())) + file.getvalue()


def _move_in(staging: Path, repository: Path, name: str, version: int) -> None:
    """Rename the staged folders into the repository, that of the ensemble last; all or none."""
    try:
        for model in layout.model_names(name):
            folder = repository / model
            for staged in (staging / model).glob(f"{layout.WARMUP}/*"):
                (folder / layout.WARMUP).mkdir(parents=True, exist_ok=True)
                staged.rename(folder / layout.WARMUP / staged.name)
            folder.mkdir(exist_ok=True)
            (staging / model / str(version)).rename(folder / str(version))
            sync(folder)
        sync(repository)
    except BaseException:
        layout.remove_incomplete(repository, name)
        raise


def may_be_chosen(backend: str, precision: str, verdict: str) -> bool:
    """Whether a file may be recommended: it passed `validate`, or it is float32 in onnxruntime,
    which the others are compared with, and did not fail."""
    reference = (backend, precision) == ("onnxruntime", "fp32")
    return verdict == "passed" or (reference and verdict != "failed")


def _with_tuned(directory: Path, options: PopulateOptions) -> PopulateOptions:
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
