"""What the Dockerfile's image does when it starts: engines for the GPU it finds, and a repository.

A server follows (`dfvt-deploy container start`). Nothing here needs a container, though.
"""

import contextlib
import ctypes
import os
import shutil
import stat
from pathlib import Path

from ..artifact import exported_models, open_artifact, read_manifest
from ..engines.build import build_engine
from ..engines.engine import Engine, engine_file_name, open_engine
from ..engines.machine import bindings
from ..engines.options import BuildOptions
from ..errors import ArtifactError, DfvtError, ServerFailed, StageFailed
from ..gpu.devices import Gpu, find_gpu
from ..manifest import MANIFEST
from ..progress import note
from ..runners.triton import TritonRunner, image_request
from ..types import Flavor, Int8Target
from .http_api import is_ready
from .layout import CONFIG, ensembles, warmup_image
from .options import ContainerOptions, PopulateOptions, PrepareOptions
from .repository import PopulatedModel, populate
from .served_model import largest_batch

#: The libraries that TensorRT's own bindings load.
_TENSORRT = ("libnvinfer.so.11", "libnvinfer.so.10")

#: Seconds that a model has to answer the request of a health check.
_HEALTH_TIMEOUT_S = 30


def repository_to_serve(options: PrepareOptions) -> Path:
    """The mounted repository as it is where it holds a model, else one made from the exports."""
    repository = served_repository(options)
    if repository == options.repository:
        note(f"serving {repository} as it is")
        return repository
    _remove(repository)  # it is made from the exports, and they may have changed
    prepare(options, repository)
    for path in (*repository.rglob("*"), repository):
        path.chmod(path.stat().st_mode & ~0o222)
    return repository


def served_repository(options: ContainerOptions) -> Path:
    """The mounted repository where it holds a model, else the one that is made from the exports."""
    mounted = any(options.repository.glob(f"*/{CONFIG}"))
    return options.repository if mounted else options.state / "model_repository"


def prepare(options: PrepareOptions, repository: Path) -> list[PopulatedModel]:
    """Add the exported models to a repository; for TensorRT, with an engine for the GPU found here:
    the one in `exports` where it fits, else a new one. There is no falling back from one backend to
    the other: a server that is 50 times slower than it should be is worse than one that says why it
    does not start. Raises StageFailed where there is no GPU or no TensorRT, or an engine could not
    be built, and BadInput where there is no model, or one without a file of the precision."""
    machine = _tensorrt_here() if options.backend.facts.engines else None
    chosen = PopulateOptions(
        repository=repository,
        backend=options.backend,
        precision=options.chosen_precision,
        max_batch_size=options.max_batch_size,
    )
    names = [name.strip() for name in options.models.split(",") if name.strip()]
    done = []
    for folder in exported_models(options.exports, names):
        engines = None
        if machine is not None:
            folder = _writable(folder, options.state)
            engines = [_engine(folder, chosen, options.state / "timing", *machine)]
        done.append(populate(folder, chosen, engines=engines))
        note(f"{done[-1].name}: {options.backend}, {options.chosen_precision}")
    return done


def check_health(url: str, repository: Path) -> tuple[str, ...]:
    """Ask the server at `host:port` over HTTP whether it is ready, and each model for an answer;
    the names of the models. Raises ServerFailed where one is not ready or does not answer."""
    if not is_ready(url):
        raise ServerFailed(f"the server at {url} is not ready")
    models = ensembles(repository)
    for name in models:
        with TritonRunner(name, url, "http", timeout=_HEALTH_TIMEOUT_S) as runner:
            runner.infer(image_request(warmup_image(repository, name)))
    return models


def tensorrt_requirement() -> str:
    """The pip requirement of TensorRT's Python bindings for the library that is installed, so that
    engines are built by what the server loads them with. Raises StageFailed without a library."""
    for name in _TENSORRT:
        with contextlib.suppress(OSError):
            number = ctypes.CDLL(name).getInferLibVersion()
            version = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
            return f"tensorrt-cu13-bindings=={version}.*"
    raise StageFailed(f"none of {', '.join(_TENSORRT)} can be loaded; use an image with TensorRT")


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


def _engine(folder: Path, chosen: PopulateOptions, timing: Path, gpu: Gpu, version: str) -> Engine:
    """The engine of a model for this GPU and this TensorRT, built unless a fitting one is there."""
    precision, capability = chosen.chosen_precision, gpu.compute_capability
    artifact = open_artifact(folder, precision, Int8Target.TENSORRT)
    images = largest_batch(artifact.manifest, chosen)
    path = folder / engine_file_name(precision, Flavor.TENSORRT, capability)
    try:
        if not path.is_file():
            raise ArtifactError(f"{folder} has no {path.name}")
        source = artifact.onnx_path(precision, Int8Target.TENSORRT)
        found = {"runtime_version": version, "compute_capability": capability}
        engine = open_engine(path, source=source, **found)
        engine.record.require_batch(images)
        return engine
    except ArtifactError as error:
        note(f"building {folder.name} in {precision}, which takes minutes: {error}")
    building = BuildOptions(max_batch=images, timing_cache_folder=timing)
    return build_engine(folder, precision, building)


def _writable(folder: Path, state: Path) -> Path:
    """The folder of a model, or a copy of it where engines can be put; the copy of an earlier
    start, with the engines built then, where the model is still the same."""
    if os.access(folder, os.W_OK):
        return folder
    copy = state / "exports" / folder.name
    kept = {}
    with contextlib.suppress(DfvtError):
        kept = open_artifact(copy).manifest.files
    if not read_manifest(folder / MANIFEST).files.items() <= kept.items():
        _remove(copy)
        shutil.copytree(folder, copy, copy_function=shutil.copyfile)
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    return copy


def _remove(directory: Path) -> None:
    if directory.exists():
        for path in (directory, *directory.rglob("*")):
            if path.is_dir():
                path.chmod(path.stat().st_mode | stat.S_IRWXU)
        shutil.rmtree(directory)
