"""`populate`: an exported model as a new version in a Triton model repository."""

import io
import math
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import tasks
from ..artifact import Artifact, open_artifact
from ..engines.engine import Engine
from ..errors import BadInput, MissingDependency, StageFailed
from ..files import locked, sha256_of, staging_directory, sync, sync_tree, write_text
from ..manifest import MANIFEST
from ..names import STEPS
from ..progress import note, warn
from ..provenance import now
from .backends import backend_of
from .history import go_live, passed, read_history, verdicts_on
from .layout import (
    CONFIG,
    WARMUP,
    live_version,
    model_names,
    remove_incomplete,
    version_folders,
    versions,
    warmup_file,
)
from .options import PopulateOptions
from .records import VERSION_RECORD, VersionRecord, hashes
from .served_model import ServedModel
from .tasks import served_task
from .tuned_settings import with_tuned

try:
    from . import config as pbtxt
except ImportError:
    raise MissingDependency("tritonclient", "client") from None

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
    model: str | Path, *, engines: Sequence[Engine] | None = None, **fields: Any
) -> PopulatedModel:
    """Add a version of an exported model to a repository: ensemble, preprocess, network and
    postprocess.

    Files of earlier versions stay as they are. The newest version becomes live, in one step for the
    four models, unless `promote` is False, or the live version passed `validate` and the new one
    did not; until then, and if this process is killed, the earlier version stays live. With `to`
    the version is left to `promotion.changes.promote`.

    model: folder of the exported model (`exports/<name>`); without settings it gets `tune`'s.
    engines: the plans to serve, as `engines.engine.open_engine` gives them; all plans of the
        precision and flavor by default.
    fields: the fields of `PopulateOptions`.
    Raises ArtifactError where the export or a plan is missing, stale or was changed, or a plan
    takes fewer images than the largest batch, GateFailed where a passing verdict is required, and
    the file has none, BadInput where the version exists, or an option does not fit the model,
    StageFailed where the repository cannot be written.
    """
    return populate_with(model, PopulateOptions(**fields), engines)


def populate_with(
    model: str | Path, options: PopulateOptions, engines: Sequence[Engine] | None = None
) -> PopulatedModel:
    """`populate` with its options as one object."""
    options = with_tuned(Path(model), options)
    backend = options.chosen_backend
    artifact = open_artifact(model, options.file_precision, backend.facts.int8_target)
    name, task = artifact.manifest.name, served_task(artifact.manifest.task)
    _check_top_k(artifact, options)
    max_batch_size = options.max_batch_size or task.max_batch_size
    files = backend_of(backend).files(artifact, options, max_batch_size, engines)
    if options.require_validated:
        for source in files.sources:
            form = source, options.chosen_precision, options.fast_decode
            verdict = artifact.require_validated(*form)
            note(f"{source} passed on {verdict.images:,} images of {verdict.dataset}")
    repository = options.repository
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with locked(repository):
            remove_incomplete(repository, name)
            version = _free_version(repository, name, options.version)
            served = ServedModel(
                manifest=artifact.manifest,
                version=version,
                options=options,
                files=files,
                max_batch_size=max_batch_size,
                answer_options=task.answer_options(
                    artifact.manifest, options.top_k, options.max_pixels
                ),
            )
            with staging_beside(repository, name) as staging:
                _stage(staging, artifact, served)
                _move_in(staging, repository, name, version)
            if options.promote and not options.to and version == max(versions(repository, name)):
                _go_live_unless_validated(repository, name, version)
            listed = repository / "requirements.txt"
            if not listed.is_file() or listed.read_text(encoding="utf-8") != REQUIREMENTS:
                write_text(listed, REQUIREMENTS)
    except OSError as error:
        raise StageFailed(f"{repository} cannot be written: {error}") from error
    live = version == live_version(repository, name)
    return PopulatedModel(name, version, repository, live)


def _go_live_unless_validated(repository: Path, name: str, version: int) -> None:
    """Make a version live, but never in place of one that passed `validate` if it did not."""
    verdicts, live = verdicts_on(repository, name, version), live_version(repository, name)
    changes = read_history(repository, name)
    validated = bool(changes) and changes[-1].version == live and not changes[-1].unvalidated
    if validated and not passed(verdicts):
        return warn(
            f"{name} version {live}, which passed validate, stays live: version {version} has no "
            "passing verdict"
        )
    go_live(repository, name, version, "populate", verdicts=verdicts)


def _check_top_k(artifact: Artifact, options: PopulateOptions) -> None:
    manifest = artifact.manifest
    if options.top_k is None:
        return
    if not served_task(manifest.task).top_k:
        raise BadInput(f"--top-k is for classification; {manifest.name} is of {manifest.task}")
    if options.top_k > manifest.num_classes:
        raise BadInput(
            f"--top-k {options.top_k} is above the {manifest.num_classes} classes of "
            f"{manifest.name}"
        )


def _free_version(repository: Path, name: str, wanted: int | None) -> int:
    taken = versions(repository, name)
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
    for step, config in pbtxt.configs(served).items():
        file = CONFIG if step == "ensemble" else f"{step}.pbtxt"
        (ensemble / file).write_text(pbtxt.to_text(config), encoding="utf-8")
    for step in ("preprocess", "postprocess"):
        shutil.copyfile(_PYTHON_MODELS / f"{step}.py", steps[step] / "model.py")
        shutil.copyfile(_PYTHON_MODELS / "telemetry.py", steps[step] / "telemetry.py")
        shutil.copytree(
            Path(tasks.__file__).parent,
            steps[step] / "dfvt_tasks",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    _copy_network(steps["network"], artifact, served)
    labels = "".join(f"{label}\n" for label in artifact.manifest.labels)
    (steps["postprocess"] / "labels.txt").write_bytes(labels.encode())
    warmup = steps["preprocess"].parent / WARMUP
    warmup.mkdir()
    (warmup / warmup_file(version)).write_bytes(_encoded_sample(served.options.max_pixels))
    record = VersionRecord(
        name=name,
        version=version,
        created=now(),
        command=replace(
            served.options, models=(name,), exports=artifact.directory.parent
        ).command_line(),
        backend=served.options.chosen_backend,
        precision=served.options.chosen_precision,
        fast_decode=served.options.fast_decode,
        files=hashes(staging, name, version),
    )
    (ensemble / VERSION_RECORD).write_text(record.as_text(), encoding="utf-8")
    sync_tree(staging)


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
    made: list[Path] = []
    try:
        for model, target in zip(
            model_names(name), version_folders(repository, name, version), strict=True
        ):
            if not target.parent.exists():
                target.parent.mkdir()
                made.append(target.parent)
            if (warmup := staging / model / WARMUP).is_dir():
                (target.parent / WARMUP).mkdir(exist_ok=True)
                for file in warmup.iterdir():
                    made.append(target.parent / WARMUP / file.name)
                    file.replace(made[-1])
            (staging / model / str(version)).rename(target)
            made.append(target)
            sync(target.parent)
        sync(repository)
    except BaseException:
        for path in reversed(made):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise
