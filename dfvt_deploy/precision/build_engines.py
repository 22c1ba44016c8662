"""`build-trt`: engines of several models, converted first where a file is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..artifact import exported_models, open_artifact, read_manifest
from ..engines.build import build_engine, profile_of
from ..engines.engine import Engine
from ..engines.machine import machine_for
from ..engines.options import BuildOptions
from ..errors import ArtifactError, BadInput, DfvtError
from ..manifest import MANIFEST
from ..names import ONNX_FILES, onnx_file
from ..progress import note
from ..types import Flavor, Int8Target, Precision


@dataclass(frozen=True)
class BuildResult:
    """What became of one engine of several: the engine, or why there is none."""

    model: str
    precision: Precision
    engine: Engine | None = None
    error: DfvtError | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "precision": self.precision.value,
            "path": str(self.engine.path) if self.engine else None,
            "record": self.engine.record.model_dump(mode="json") if self.engine else None,
            "error": str(self.error) if self.error else None,
        }


def build_trt(model: str | Path, *, options: BuildOptions | None = None, **fields: Any) -> Engine:
    """Build one engine of the exported model in a folder (`exports/<name>`); `convert` makes the
    ONNX file first if it is missing. `fields` of `BuildOptions`, such as `precision`, take the
    place of those of `options`. Raises DfvtError as `convert` and `engines.build.build_engine` do.
    """
    model = Path(model)
    options = replace(options or BuildOptions(), **fields)
    if options.precision == "all":
        raise BadInput("build_trt builds one precision at a time, not all")
    precision = Precision(options.precision)
    _convert_if_missing(model, precision)
    return build_engine(model, precision, options)


def build_engines(options: BuildOptions) -> list[BuildResult]:
    """Build every engine that the options name, and go on past those that fail. Raises DfvtError
    where nothing can be built: there is no model, an option is out of range, or this machine lacks
    what builds (the message has one container command for all models)."""
    folders = exported_models(options.exports, options.models)
    if options.flavor is Flavor.RTX:
        machine_for(options)  # refuses a compute capability before minutes of conversion
    done: list[BuildResult] = []
    ready: list[tuple[Path, Precision]] = []
    for folder, precision in _engines_of(folders, options):
        try:
            profile_of(read_manifest(folder / MANIFEST), options)
            _convert_if_missing(folder, precision)
            ready.append((folder, precision))
        except DfvtError as error:
            done.append(BuildResult(folder.name, precision, error=error))
    if ready:
        machine_for(options)
    for folder, precision in ready:
        try:
            engine = build_engine(folder, precision, options)
            done.append(BuildResult(folder.name, precision, engine))
        except DfvtError as error:
            done.append(BuildResult(folder.name, precision, error=error))
    return done


def _engines_of(folders: Sequence[Path], options: BuildOptions) -> list[tuple[Path, Precision]]:
    """The models and precisions to build. `all` stands for those that a model has a file of."""
    if options.precision != "all":
        return [(folder, options.precision) for folder in folders]
    found = []
    for folder in folders:
        try:
            files = read_manifest(folder / MANIFEST).files
        except ArtifactError:
            found.append((folder, Precision.FP32))  # reading it again gives the error its place
            continue
        found += [
            (folder, each) for each in ONNX_FILES if onnx_file(each, Int8Target.TENSORRT) in files
        ]
    return found


def _convert_if_missing(folder: Path, precision: Precision) -> None:
    """Convert a model that has no ONNX file of the precision that TensorRT takes, and say so."""
    manifest = open_artifact(folder, Precision.FP32).manifest
    name = onnx_file(precision, Int8Target.TENSORRT)
    if name in manifest.files:
        return
    from .convert import convert

    note(f"{manifest.name} has no {name}: converting it to {precision} first")
    target = Int8Target.TENSORRT if precision is Precision.INT8 else Int8Target.CPU
    convert(folder, precision, target=target)
