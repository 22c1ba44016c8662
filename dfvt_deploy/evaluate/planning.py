"""Which hops a validation makes, with their runners opened, and which it cannot make and why."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..artifact import MANIFEST, ONNX_FILES, Artifact, read_manifest
from ..errors import ArtifactError, BadInput, DfvtError
from ..files import sha256_of
from ..progress import stage
from ..runners import Runner
from ..runners.onnx_runtime import CPU, CUDA, OnnxRuntimeRunner
from ..runners.triton import Protocol, TritonRunner
from ..serving.layout import newest_version
from ..serving.tasks import SERVED_TASKS
from ..types import NmsOperator, Precision, Task
from . import hops
from .hops import Hop, LocalSteps
from .request import Request
from .verdict import NotRun

_PLAN = ".plan"


@dataclass(frozen=True)
class Live:
    """A running Triton server that serves the model.

    repository: the model repository it was started on, where that is known.
    served: the file of the exported model behind its network.
    """

    url: str
    protocol: Protocol
    served: str
    repository: Path | None = None


@dataclass
class Plan:
    """The hops in order; `not_run` are those that could not be made."""

    steps: LocalSteps
    hops: list[Hop] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)

    def find(self, name: str) -> Hop:
        return next(hop for hop in self.hops if hop.name == name)


def served_file(artifact: Artifact, repository: Path) -> str:
    """The file of an exported model that a repository serves as its network.

    Raises:
        ArtifactError: the repository does not hold the model, or another export of it.
    """
    name = artifact.manifest.name
    version = newest_version(repository, name)
    remedy = f"dfvt-deploy populate {name} --repository {repository}"
    if not version:
        raise ArtifactError(f"{repository} does not hold {name}; add it with: {remedy}")
    folder = repository / f"{name}_network" / str(version)
    served = read_manifest(folder / MANIFEST)
    by_hash = {record.sha256: file for file, record in artifact.manifest.files.items()}
    known = {record.sha256 for record in served.files.values()}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".onnx", _PLAN) and (digest := sha256_of(path)) in known & set(by_hash):
            return by_hash[digest]
    raise ArtifactError(
        f"{folder} serves none of the files of {artifact.directory}; populate again: {remedy}"
    )


def plan(artifact: Artifact, request: Request, live: Live | None, stack: ExitStack) -> Plan:
    """Open every runner that is needed, to be closed by `stack`.

    Raises:
        BadInput: a file that was named is not there, or the checkpoint is not the export's.
        StageFailed: a step before the network could not be made again.
    """
    manifest = artifact.manifest
    options = _answer_options(artifact, live, stack)
    made = Plan(LocalSteps(manifest, options))
    if request.against == "fp32":
        _add_pytorch(made, artifact, request, stack)
        _add_simplified(made, artifact, request, stack, source=hops.ONNX)
    else:
        reason = "--against onnx: model.onnx is the reference"
        made.not_run += [NotRun(name=n, reason=reason) for n in (hops.REFERENCE, hops.ONNX)]
        _add_simplified(made, artifact, request, stack, source=None)
    for precision in (Precision.FP16, Precision.INT8):
        _add_converted(made, artifact, request, precision, live, stack)
    _add_engines(made, artifact, request, live, stack)
    _add_served(made, artifact, live, stack)
    return made


def _add_pytorch(made: Plan, artifact: Artifact, request: Request, stack: ExitStack) -> None:
    import onnx

    from ..conversion.recipe import GraphOptions
    from ..conversion.recipes import RECIPES
    from ..conversion.to_onnx import onnx_from_graph
    from ..runners.pytorch import PytorchRunner, model_from_manifest

    manifest = artifact.manifest
    with stage(f"{manifest.name}: building the PyTorch model"):
        model = model_from_manifest(manifest, request.checkpoint)
    options = GraphOptions(
        manifest.input_kind,
        manifest.preprocessing.canvas,
        manifest.task is Task.SEGMENTATION and any(o.name == "logits" for o in manifest.outputs),
        NmsOperator.ONNX if "NonMaxSuppression" in manifest.graph.operators else NmsOperator.LOOP,
    )
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dfvt_validate_")))
    with stage(f"{manifest.name}: exporting again with torch.onnx"):
        exported = onnx_from_graph(
            RECIPES[manifest.task].graph(model, options), manifest.graph.opset
        )
        onnx.save_model(exported, folder / "exported.onnx")
    del exported
    runner: Runner = PytorchRunner(manifest, model, request.device)
    stack.enter_context(runner)
    made.hops.append(hops.network_hop(made.steps, hops.REFERENCE, None, "PyTorch, float32", runner))
    runner = _onnx_runner(folder / "exported.onnx", artifact, request, stack)
    made.hops.append(
        hops.network_hop(
            made.steps, hops.ONNX, hops.REFERENCE, "ONNX as torch.onnx wrote it", runner
        )
    )


def _add_simplified(
    made: Plan, artifact: Artifact, request: Request, stack: ExitStack, source: str | None
) -> None:
    file = ONNX_FILES[Precision.FP32]
    runner = _onnx_runner(artifact.onnx_path(), artifact, request, stack)
    made.hops.append(
        hops.network_hop(
            made.steps, hops.SIMPLIFIED, source, f"{file}, simplified", runner, file=file
        )
    )


def _add_converted(
    made: Plan,
    artifact: Artifact,
    request: Request,
    precision: Precision,
    live: Live | None,
    stack: ExitStack,
) -> None:
    file = ONNX_FILES[precision]
    name = str(precision)
    wanted = request.precisions is not None and precision in request.precisions
    if file not in artifact.manifest.files and not wanted:
        reason = f"there is no {file}; make it with: dfvt-deploy convert --precision {precision}"
        made.not_run.append(NotRun(name=name, reason=reason))
        return
    needed = live is not None and live.served.removesuffix(_PLAN).startswith(f"model.{precision}")
    if request.precisions is not None and not wanted and not needed:
        made.not_run.append(NotRun(name=name, reason=f"left out: --precision {precision}"))
        return
    runner = _onnx_runner(artifact.onnx_path(precision), artifact, request, stack)
    made.hops.append(
        hops.network_hop(
            made.steps,
            name,
            hops.SIMPLIFIED,
            file,
            runner,
            precision=precision,
            changes=True,
            file=file,
        )
    )


def _add_engines(
    made: Plan, artifact: Artifact, request: Request, live: Live | None, stack: ExitStack
) -> None:
    files = artifact.manifest.files
    listed = [name for name in files if name.endswith(_PLAN)]
    if request.engines is not None:
        missing = [name for name in request.engines if name not in listed]
        if missing:
            raise ArtifactError(
                f"{artifact.directory} has no {missing[0]}; engines: {', '.join(listed) or 'none'};"
                " make one with: dfvt-deploy build-trt"
            )
    if not listed:
        reason = "there is no engine; make one with: dfvt-deploy build-trt"
        made.not_run.append(NotRun(name="engine", reason=reason))
    for name in listed:
        record = files[name]
        served = live is not None and live.served == name
        if request.engines is not None and name not in request.engines and not served:
            made.not_run.append(NotRun(name=name, reason="left out: --engine names others"))
            continue
        source = next((h for h in made.hops if h.file == ONNX_FILES[record.precision]), None)
        if source is None:
            reason = f"it is compared with {ONNX_FILES[record.precision]}, which was left out"
            made.not_run.append(NotRun(name=name, reason=reason))
            continue
        try:
            runner = _engine_runner(artifact, name, stack)
        except DfvtError as error:
            if request.engines is not None and name in request.engines:
                raise
            made.not_run.append(NotRun(name=name, reason=str(error)))
            continue
        made.hops.append(
            hops.network_hop(
                made.steps,
                name,
                source.name,
                f"{name}, TensorRT",
                runner,
                precision=record.precision,
                lower=True,
                file=name,
            )
        )


def _engine_runner(artifact: Artifact, name: str, stack: ExitStack) -> Runner:
    from ..runners.tensorrt import TensorRTRunner

    precision = artifact.manifest.files[name].precision
    runner = TensorRTRunner(artifact.directory / name, source=artifact.onnx_path(precision))
    opened: Runner = stack.enter_context(runner)
    return opened


def _add_served(made: Plan, artifact: Artifact, live: Live | None, stack: ExitStack) -> None:
    if live is None:
        reason = (
            "no server: --serve starts one on --repository, --url names one that runs (dfvt-deploy "
            "populate makes the repository)"
        )
        made.not_run.append(NotRun(name="triton", reason=reason))
        return
    name = artifact.manifest.name
    source = next((hop for hop in made.hops if hop.file == live.served), None)
    if source is None:  # an engine that does not run here
        precision = artifact.manifest.files[live.served].precision
        source = next(hop for hop in made.hops if hop.file == ONNX_FILES[precision])

    def runner(step: str) -> Runner:
        opened: Runner = stack.enter_context(TritonRunner(step, live.url, live.protocol))
        return opened

    steps, precision = made.steps, source.precision
    made.hops += [
        hops.preprocess_hop(steps, source, runner(f"{name}_preprocess")),
        hops.network_hop(
            steps,
            hops.NETWORK,
            hops.PREPROCESS,
            f"{name}_network, serving {live.served} over {live.protocol}",
            runner(f"{name}_network"),
            precision=precision,
            lower=precision is not Precision.FP32,
        ),
        hops.postprocess_hop(steps, precision, runner(f"{name}_postprocess")),
        hops.ensemble_hop(steps, precision, runner(name)),
    ]


def _onnx_runner(path: Path, artifact: Artifact, request: Request, stack: ExitStack) -> Runner:
    task = SERVED_TASKS[artifact.manifest.task]
    providers: Any = CUDA if request.device == "cuda" else CPU
    runner: Runner = stack.enter_context(
        OnnxRuntimeRunner(path, providers, request.threads, arena=task.arena)
    )
    return runner


def _answer_options(artifact: Artifact, live: Live | None, stack: ExitStack) -> Mapping[str, Any]:
    """The options that the server answers with, so that local answers are made alike."""
    manifest = artifact.manifest
    task = SERVED_TASKS[manifest.task]
    default = task.answer_options(manifest, 0, 2**31)
    if live is None or manifest.task is not Task.CLASSIFICATION:
        return default
    with TritonRunner(manifest.name, live.url, live.protocol) as runner:
        shapes = runner.output_shapes()
    if "class_ids" not in shapes:
        raise BadInput(
            f"{manifest.name} at {live.url} answers {', '.join(shapes)}, not class_ids; it is "
            "another model"
        )
    return {**default, "k": shapes["class_ids"][-1]}
