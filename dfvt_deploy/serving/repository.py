"""`populate`: a Triton model repository that stands alone."""

from __future__ import annotations

import io
import math
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from .. import tasks
from ..artifact import MANIFEST, Artifact, open_artifact
from ..engines.record import Engine
from ..errors import BadInput, MissingDependency, StageFailed
from ..files import sha256_of, staging_directory
from ..progress import note
from ..tasks.classification import TOP_K
from ..tasks.images import ImageLimits
from ..types import Flavor, Precision
from .layout import CONFIG, model_names, newest_version
from .tasks import SERVED_TASKS

try:
    from . import config as pbtxt
    from .config import Placement
    from .network import Network, check_cuda_graphs, onnxruntime_network, tensorrt_network
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

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class PopulateOptions:
    """Settings of the served model.

    max_batch_size: images in one request or batch; the task's own default (64, dense tasks 4).
    k: answers per image of a classifier, cut to the class count.
    """

    max_batch_size: int | None = None
    k: int = TOP_K
    limits: ImageLimits = field(default_factory=ImageLimits)
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise BadInput(f"max batch size {self.max_batch_size} is below 1")
        if self.k < 1:
            raise BadInput(f"k {self.k} is below 1")


@dataclass(frozen=True)
class PopulatedModel:
    """What `populate` added: the ensemble `name` at `version` in `repository`."""

    name: str
    version: int
    repository: Path


def populate(
    model: str | Path,
    *,
    repository: str | Path = "model_repository",
    backend: Literal["onnxruntime", "tensorrt"] = "onnxruntime",
    precision: Precision | str = Precision.FP32,
    flavor: Flavor | str = Flavor.TENSORRT,
    engines: Sequence[Engine] | None = None,
    version: int | None = None,
    options: PopulateOptions | None = None,
    require_validated: bool = False,
) -> PopulatedModel:
    """Add a version of an exported model to a repository: ensemble, preprocess, network and
    postprocess.

    Nothing of an earlier version is changed but `config.pbtxt`, which is one for all versions of
    a model; each version keeps the one it came with beside its files. Triton serves the newest.

    Args:
        model: folder of the exported model (`exports/<name>`).
        backend: of the network. `tensorrt` serves the plans that `build_trt` made, always on a
            GPU.
        flavor: of the plans. NVIDIA's `tensorrt` backend does not load those of TensorRT-RTX, so
            that such a repository runs on the embedded server alone.
        engines: the plans to serve, as `engines.record.open_engine` gives them; all of the
            precision and flavor by default.
        version: the next free one by default.
        require_validated: take only a file that `validate` passed.

    Raises:
        ArtifactError: the export or a plan is missing, stale or was changed, or a plan takes
            fewer images than `max_batch_size`.
        GateFailed: a passing verdict is required, and the file has none.
        BadInput: the version exists, or an option is out of range.
        StageFailed: the repository cannot be written.
    """
    artifact = open_artifact(model, Precision(precision))
    repository, options = Path(repository), options or PopulateOptions()
    if artifact.manifest.task not in SERVED_TASKS:
        raise BadInput(f"{artifact.manifest.task} models cannot be served yet")
    max_batch_size = options.max_batch_size or SERVED_TASKS[artifact.manifest.task].max_batch_size
    if backend == "tensorrt":
        network = tensorrt_network(
            artifact, Precision(precision), Flavor(flavor), max_batch_size, engines
        )
        options = replace(options, placement=replace(options.placement, device="gpu"))
    elif Flavor(flavor) is not Flavor.TENSORRT:
        raise BadInput(f"--flavor {flavor} is for --backend tensorrt")
    else:
        network = onnxruntime_network(artifact, Precision(precision))
    if options.placement.cuda_graphs:
        check_cuda_graphs(artifact.manifest, network)
    if require_validated:
        for source in network.sources:
            verdict = artifact.require_validated(source)
            note(f"{source} passed on {verdict.images:,} images of {verdict.dataset}")
    name = artifact.manifest.name
    newest = newest_version(repository, name)
    version = newest + 1 if version is None else version
    if version < 1:
        raise BadInput(f"version {version} is below 1")
    if any((repository / n / str(version)).exists() for n in model_names(name)):
        raise BadInput(f"{name} version {version} is in {repository} already; next is {newest + 1}")
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with staging_directory(_beside(repository.resolve())) as staging:
            _stage(staging, artifact, network, version, options)
            _move_in(staging, repository, name, version, newest)
    except OSError as error:
        raise StageFailed(f"{repository} cannot be written: {error}") from error
    return PopulatedModel(name, version, repository)


def _beside(repository: Path) -> Path:
    """Where to stage: beside the repository, or inside where that is another file system."""
    same = repository.stat().st_dev == repository.parent.stat().st_dev
    return repository if same else repository / "staging"


def _stage(
    staging: Path,
    artifact: Artifact,
    network: Network,
    version: int,
    options: PopulateOptions,
) -> None:
    """Write the four models, complete, into an empty folder."""
    manifest = artifact.manifest
    task = SERVED_TASKS[manifest.task]
    model = pbtxt.ServedModel(
        manifest=manifest,
        max_batch_size=options.max_batch_size or task.max_batch_size,
        answer_options=task.answer_options(manifest, options.k, options.limits.max_pixels),
        limits=options.limits,
        placement=options.placement,
    )
    configs = {
        "preprocess": pbtxt.preprocess_config(model),
        "network": pbtxt.network_config(model, network.files),
        "postprocess": pbtxt.postprocess_config(model),
        "ensemble": pbtxt.ensemble_config(model),
    }
    for step, config in configs.items():
        directory = staging / config.name / str(version)
        directory.mkdir(parents=True)
        (directory.parent / CONFIG).write_text(pbtxt.to_text(config), encoding="utf-8")
        (directory / CONFIG).write_text(pbtxt.to_text(config), encoding="utf-8")
        if step in ("preprocess", "postprocess"):
            shutil.copyfile(_HERE / "python_models" / f"{step}.py", directory / "model.py")
            shutil.copytree(
                Path(tasks.__file__).parent,
                directory / "dfvt_tasks",
                ignore=shutil.ignore_patterns("__pycache__"),
            )
    directory = staging / f"{manifest.name}_network" / str(version)
    for file, source in network.copied.items():
        shutil.copyfile(source, directory / file)
        record = manifest.files.get(source.name)
        if record is not None and sha256_of(directory / file) != record.sha256:
            raise StageFailed(f"{source} changed while it was copied; run populate again")
    shutil.copyfile(artifact.directory / MANIFEST, directory / MANIFEST)
    for source_name in network.sources:
        for report in artifact.reports(source_name):
            shutil.copyfile(report, directory / report.name)
    labels = "".join(f"{label}\n" for label in manifest.labels)
    postprocess = staging / f"{manifest.name}_postprocess" / str(version)
    (postprocess / "labels.txt").write_text(labels, encoding="utf-8")
    warmup = staging / f"{manifest.name}_preprocess" / "warmup"
    warmup.mkdir()
    (warmup / pbtxt.WARMUP_IMAGE).write_bytes(_warmup_image(options.limits.max_pixels))


def _warmup_image(max_pixels: int) -> bytes:
    """A small JPEG as Triton reads a BYTES tensor from a file: 4-byte length, then the bytes."""
    from PIL import Image

    file = io.BytesIO()
    side = min(256, math.isqrt(max_pixels))
    Image.linear_gradient("L").convert("RGB").resize((side, side)).save(file, "JPEG")
    return struct.pack("<I", len(file.getvalue())) + file.getvalue()


def _move_in(staging: Path, repository: Path, name: str, version: int, newest: int) -> None:
    """Rename the staged versions into place, all or none, then the settings.

    The settings are those of the newest version, which Triton serves.
    """
    made: list[Path] = []
    try:
        for model in model_names(name):
            target = repository / model / str(version)
            if not target.parent.exists():
                target.parent.mkdir()
                made.append(target.parent)
            (staging / model / str(version)).rename(target)
            made.append(target)
    except BaseException:
        for path in reversed(made):
            shutil.rmtree(path, ignore_errors=True)
        raise
    if version < newest:
        return
    for model in model_names(name):
        for path in (staging / model).iterdir():
            target = repository / model / path.name
            if path.is_dir():
                target.mkdir(exist_ok=True)
                for file in path.iterdir():
                    file.replace(target / file.name)
            else:
                path.replace(target)
    (staging / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
    (staging / "requirements.txt").replace(repository / "requirements.txt")
