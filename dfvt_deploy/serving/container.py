"""What the Dockerfile's image does when it starts: engines for the GPU it finds, and a repository.

A server follows (`dfvt-deploy container start`). Nothing here needs a container, though.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..artifact import MANIFEST, Artifact, exported_models, open_artifact, read_manifest
from ..engines.bindings import bindings
from ..engines.build import BuildOptions, build_trt
from ..engines.gpu import Gpu, find_gpu
from ..engines.profiles import Shapes
from ..engines.record import Engine, Flavor, engine_file_name, open_engine
from ..errors import ArtifactError, DfvtError, StageFailed
from ..progress import note
from ..types import Precision
from .config import Placement
from .layout import CONFIG
from .repository import PopulatedModel, PopulateOptions, populate
from .tasks import SERVED_TASKS

Backend = Literal["tensorrt", "onnxruntime"]

#: Major versions of the library that TensorRT's own bindings load.
_TENSORRT_MAJORS = (11, 10)


@dataclass(frozen=True)
class ContainerOptions:
    """What the image's environment variables say.

    exports: folder of exported models. Engines are built into it, or into a copy within `state`
        where it cannot be written.
    state: what the image keeps between starts.
    backend: of the network. There is no falling back from one to the other: a server that is 50
        times slower than it should be is worse than one that says why it does not start.
    precision: fp16 with tensorrt, else fp32, when None.
    models: names under `exports`; all of them when empty.
    max_batch_size: the task's own when None.
    """

    exports: Path
    state: Path
    backend: Backend = "tensorrt"
    precision: Precision | None = None
    models: tuple[str, ...] = ()
    max_batch_size: int | None = None

    @property
    def chosen_precision(self) -> Precision:
        default = Precision.FP16 if self.backend == "tensorrt" else Precision.FP32
        return self.precision or default


def repository_to_serve(options: ContainerOptions, mounted: Path) -> Path:
    """The mounted repository as it is where it holds a model, else one made from the exports.

    Raises:
        StageFailed, BadInput: see `prepare`.
    """
    if any(mounted.glob(f"*/{CONFIG}")):
        note(f"serving {mounted} as it is")
        return mounted
    repository = options.state / "model_repository"
    _remove(repository)  # it is made from the exports, and they may have changed
    prepare(options, repository)
    _set_read_only(repository)
    return repository


def prepare(options: ContainerOptions, repository: Path) -> list[PopulatedModel]:
    """Add the exported models to a repository; for TensorRT, with an engine for the GPU found here:
    the one in `exports` where it fits, else a new one.

    Raises:
        StageFailed: no GPU, no TensorRT, or an engine could not be built.
        BadInput: no model, or one without a file of the precision.
    """
    folders = [options.exports / name for name in options.models] or exported_models(
        options.exports
    )
    placement = Placement(preprocess_instances=4 if options.backend == "tensorrt" else 2)
    populate_options = PopulateOptions(max_batch_size=options.max_batch_size, placement=placement)
    machine = _tensorrt_here() if options.backend == "tensorrt" else None
    done = []
    for folder in folders:
        engines = None
        if machine is not None:
            folder = _writable(folder, options.state)
            engines = [_engine(folder, options, *machine)]
        done.append(
            populate(
                folder,
                repository=repository,
                backend=options.backend,
                precision=options.chosen_precision,
                engines=engines,
                options=populate_options,
            )
        )
        note(f"{done[-1].name}: {options.backend}, {options.chosen_precision}")
    return done


def is_ready(url: str) -> bool:
    """Whether the server at `host:port` has loaded every model."""
    try:
        with urllib.request.urlopen(f"http://{url}/v2/health/ready", timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def tensorrt_requirement() -> str:
    """The pip requirement of TensorRT's Python bindings for the library that is installed, so that
    engines are built by what the server loads them with.

    Raises:
        StageFailed: there is no such library.
    """
    for major in _TENSORRT_MAJORS:
        try:
            number = ctypes.CDLL(f"libnvinfer.so.{major}").getInferLibVersion()
        except OSError:
            continue
        return f"tensorrt-cu13-bindings=={number // 10000}.{number // 100 % 100}.{number % 100}.*"
    names = ", ".join(f"libnvinfer.so.{major}" for major in _TENSORRT_MAJORS)
    raise StageFailed(f"none of {names} can be loaded; use an image with TensorRT")


def _tensorrt_here() -> tuple[Gpu, str]:
    gpu = find_gpu()
    if gpu is None:
        raise StageFailed(
            "no NVIDIA GPU was found; start the container with --gpus=all, or serve with "
            "onnxruntime on the CPU: --env DFVT_BACKEND=onnxruntime"
        )
    version = str(bindings(Flavor.TENSORRT).__version__)
    note(f"{gpu.name}, compute capability {gpu.compute_capability}, TensorRT {version}")
    return gpu, version


def _engine(folder: Path, options: ContainerOptions, gpu: Gpu, version: str) -> Engine:
    """The engine of a model for this GPU and this TensorRT, built unless it is there."""
    precision = options.chosen_precision
    artifact = open_artifact(folder, precision)
    task = SERVED_TASKS[artifact.manifest.task]
    images = options.max_batch_size or task.max_batch_size
    try:
        return _fitting_engine(artifact, precision, gpu, version, images)
    except ArtifactError as error:
        note(f"building {folder.name} in {precision}, which takes minutes: {error}")
    build = BuildOptions(timing_cache=options.state / "timing")
    if images > 1:
        build = replace(build, shapes=Shapes(max_batch=images))
    return build_trt(folder, precision=precision, options=build)


def _fitting_engine(
    artifact: Artifact, precision: Precision, gpu: Gpu, version: str, images: int
) -> Engine:
    capability = gpu.compute_capability
    path = artifact.directory / engine_file_name(precision, Flavor.TENSORRT, capability)
    if not path.is_file():
        raise ArtifactError(f"{artifact.directory} has no {path.name}")
    engine = open_engine(
        path,
        source=artifact.onnx_path(precision),
        runtime_version=version,
        compute_capability=capability,
    )
    engine.record.require_batch(images)
    return engine


def _writable(folder: Path, state: Path) -> Path:
    """The folder of a model, or a copy of it where engines can be put; the copy of an earlier
    start, with the engines built then, where the model is still the same."""
    if os.access(folder, os.W_OK):
        return folder
    copy = state / "exports" / folder.name
    try:
        kept = open_artifact(copy).manifest.files
    except DfvtError:
        kept = {}
    if not read_manifest(folder / MANIFEST).files.items() <= kept.items():
        _remove(copy)
        shutil.copytree(folder, copy, copy_function=shutil.copyfile)
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    return copy


def _set_read_only(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        path.chmod(path.stat().st_mode & ~0o222)


def _remove(directory: Path) -> None:
    if directory.exists():
        for path in (directory, *directory.rglob("*")):
            if path.is_dir():
                path.chmod(path.stat().st_mode | stat.S_IRWXU)
        shutil.rmtree(directory)


def listed(models: str) -> Sequence[str]:
    """Names separated by commas."""
    return tuple(name.strip() for name in models.split(",") if name.strip())
