"""The stages that a validation runs, with open runners, and those that it cannot run and why."""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifact import Artifact
from ..compare import comparison_of
from ..compare.agreement import IDENTICAL
from ..errors import ArtifactError, DfvtError
from ..names import ONNX_FILES, onnx_file
from ..pipeline import Pipeline
from ..progress import spinner
from ..runners import Runner
from ..runners.onnx_runtime import CPU, CUDA, OnnxRuntimeRunner
from ..runners.openvino import OpenVINORunner
from ..runners.triton import TritonRunner
from ..types import Int8Target, Precision
from . import stages
from .live_server import LiveServer, Served
from .options import ValidateOptions
from .results import NotRun
from .stages import Part, Stage

if TYPE_CHECKING:
    from torch import nn


def check_files(artifact: Artifact, options: ValidateOptions, served: Served | None) -> None:
    """Raise ArtifactError where a file or a plan that the options name is missing or stale."""
    files, plans = artifact.manifest.files, artifact.manifest.plans()
    for precision in options.precisions:
        if precision is not Precision.BF16 and not _targets(artifact, precision):
            artifact.onnx_path(precision)  # raises with the command that makes the file
    for name in options.engines:
        if name not in plans:
            raise ArtifactError(
                f"{artifact.directory} has no {name}; engines: {', '.join(plans) or 'none'}; make "
                f"one with: {artifact.command('build-trt')}"
            )
    wanted = options.layers and Precision(options.layers)
    needed = (*options.precisions, *([served.precision] if served else []))
    if wanted and (
        ONNX_FILES[wanted] not in files or (options.precisions and wanted not in needed)
    ):
        raise ArtifactError(
            f"--layers {wanted} needs {ONNX_FILES[wanted]}, which is left out or does not exist; "
            f"make it with: {artifact.command('convert', '--precision', wanted)}"
        )


def _targets(artifact: Artifact, precision: Precision) -> list[Int8Target]:
    """The targets for which the model has a file of a precision; only INT8 has more than one."""
    targets = list(Int8Target) if precision is Precision.INT8 else [Int8Target.CPU]
    return [t for t in targets if onnx_file(precision, t) in artifact.manifest.files]


def build_stages(
    artifact: Artifact,
    options: ValidateOptions,
    model: "nn.Module | None",
    live: LiveServer | None,
    stack: ExitStack,
) -> "Stages":
    """Open a runner for every stage; `stack` closes them.

    model: the PyTorch model that is the reference; model.onnx is the reference without it.
    Raises DfvtError where a stage that the options name cannot run, or model.onnx cannot.
    """
    found = Stages(artifact, options, live, stack)
    if model is not None:
        found.add_pytorch(model)
        found.add_exported(model)
    else:
        for name in (stages.REFERENCE, stages.ONNX):
            found.leave_out(name, "--against onnx: model.onnx is the reference")
    path = artifact.onnx_path()
    source = None if model is None else stages.ONNX
    title = f"{path.name}, simplified"
    found.add_network(found.onnx_runner(path), stages.SIMPLIFIED, source, title, file=path.name)
    for precision in (Precision.FP16, Precision.INT8):
        found.add_converted(precision)
    found.add_bfloat16()
    found.add_engines()
    found.add_fast_decode()
    found.add_served()
    return found


@dataclass
class Stages:
    """The stages in the order in which an image passes them, and those that are `not_run`."""

    artifact: Artifact
    options: ValidateOptions
    live: LiveServer | None
    stack: ExitStack
    made: list[Stage] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manifest = self.artifact.manifest
        self.comparison = comparison_of(self.manifest.task)
        self.served_precision = self.live.precision if self.live else None
        self.pipeline = Pipeline(self.manifest, self.live.answer_options if self.live else {})

    def leave_out(self, name: str, reason: str) -> None:
        self.not_run.append(NotRun(name=name, reason=reason))

    def add(self, *fields: Any, **more: Any) -> None:
        """Add a stage by the fields of `Stage` that follow the task."""
        self.made.append(Stage(self.manifest.task, *fields, **more))

    def add_network(
        self, runner: Runner, *names: str | None, rounds: bool = False, **more: Any
    ) -> None:
        """Add a stage that runs the network with another runner, by its name, source and title. It
        `rounds`, as its precision does, where the precision or the hardware is another than that of
        the stage before it."""
        step = partial(stages.run_network, self.pipeline, self.stack.enter_context(runner))
        precision = more.get("precision", Precision.FP32) if rounds else Precision.FP32
        self.add(*names, step, Part.OUTPUTS, self.comparison.release_limits(precision), **more)

    def add_pytorch(self, model: "nn.Module") -> None:
        from ..runners.pytorch import PytorchRunner

        runner = PytorchRunner(self.manifest, model, self.options.device, self.options.threads)
        self.add_network(runner, stages.REFERENCE, None, "PyTorch, float32")

    def add_exported(self, model: "nn.Module") -> None:
        """The graph as torch.onnx writes it, before `export` simplifies it."""
        from ..exporters.options import ExportOptions
        from ..exporters.recipe import onnx_from_graph, recipe_of

        manifest = self.manifest
        options = ExportOptions(
            variant=manifest.variant,
            task=manifest.task,
            input_kind=manifest.input_kind,
            static=manifest.preprocessing.canvas,
            logits=any(output.name == "logits" for output in manifest.outputs),
        )
        with spinner(f"{manifest.name}: exporting again with torch.onnx"):
            graph = recipe_of(manifest.task).graph(model, options)
            exported = onnx_from_graph(graph, manifest.graph.opset)
        runner = self.onnx_runner(exported.SerializeToString())
        self.add_network(runner, stages.ONNX, stages.REFERENCE, "ONNX as torch.onnx wrote it")

    def add_converted(self, precision: Precision) -> None:
        """Add a stage for each file of a precision; INT8 may have one for each target."""
        wanted = self.options.precisions
        targets = _targets(self.artifact, precision)
        if not targets:
            remedy = self.artifact.command("convert", "--precision", precision)
            reason = f"there is no {ONNX_FILES[precision]}; make it with: {remedy}"
            return self.leave_out(str(precision), reason)
        if wanted and precision not in wanted and precision is not self.served_precision:
            return self.leave_out(str(precision), f"left out: --precision {', '.join(wanted)}")
        for target in targets:
            path = self.artifact.onnx_path(precision, target)
            name = str(precision) if target is Int8Target.CPU else f"{precision} {target}"
            if target is not Int8Target.OPENVINO:
                runner = self.onnx_runner(path)
            elif find_spec("openvino"):
                runner = OpenVINORunner(path, precision, self.options.threads)
            else:
                self.leave_out(name, "openvino is not installed")
                continue
            self.add_converted_file(name, path.name, path, runner, precision)

    def add_converted_file(
        self, name: str, title: str, path: Path, runner: Runner, precision: Precision
    ) -> None:
        more: dict[str, Any] = {"precision": precision, "changes": True, "file": path.name}
        self.add_network(runner, name, stages.SIMPLIFIED, title, rounds=True, **more)

    def add_bfloat16(self) -> None:
        """Add model.onnx in bfloat16 where that is asked for, or served."""
        precision = Precision.BF16
        if precision not in (*self.options.precisions, self.served_precision):
            return self.leave_out(stages.BFLOAT16, f"not asked for: --precision {precision}")
        path = self.artifact.onnx_path()
        runner = OpenVINORunner(path, precision, self.options.threads)
        title = f"{path.name}, OpenVINO in bfloat16"
        self.add_converted_file(stages.BFLOAT16, title, path, runner, precision)

    def add_engines(self) -> None:
        names = self.manifest.plans()
        wanted = self.options.engines
        if not names:
            remedy = self.artifact.command("build-trt")
            self.leave_out("engine", f"there is no engine; make one with: {remedy}")
        for name in names:
            if wanted and name not in wanted and not (self.live and self.live.file == name):
                self.leave_out(name, "left out: --engine names others")
                continue
            try:
                self.add_engine(name)
            except DfvtError as error:
                if name in wanted:
                    raise
                self.leave_out(name, str(error))

    def add_engine(self, name: str) -> None:
        from ..runners.tensorrt import TensorRTRunner

        precision = self.manifest.files[name].precision
        source_file = self.artifact.onnx_path(precision, Int8Target.TENSORRT)
        source = self.stage_of_file(source_file.name, precision)
        if source is None:
            raise ArtifactError(f"it is compared with {source_file.name}, which was left out")
        runner = TensorRTRunner(self.artifact.directory / name, source=source_file)
        title = f"{name}, TensorRT"
        more: dict[str, Any] = {"precision": precision, "file": name}
        self.add_network(runner, name, source.name, title, rounds=True, **more)

    def add_fast_decode(self) -> None:
        """Add to each file's stage one with images decoded at reduced scale, if asked or served."""
        if not (self.options.fast_decode or (self.live and self.live.fast_decode)):
            return
        pipeline = replace(self.pipeline, fast_decode=True)
        more: dict[str, Any] = {"changes": True, "fast_decode": True}
        more["step_limits"] = self.comparison.release_limits(Precision.INT8)
        for source in [stage for stage in self.made if stage.file]:
            step = partial(stages.run_preprocessing, source, pipeline.read)
            name, title = (f"{text}{stages.FAST_DECODE}" for text in (source.name, source.title))
            stage = replace(source, name=name, source=source.name, title=title, step=step, **more)
            self.made.append(stage)

    def add_served(self) -> None:
        from ..serving.tasks import served_task

        live = self.live
        if live is None:
            reason = (
                f"no server: make a repository with {self.artifact.command('populate')}, and give "
                "--serve to start a server on it, or --url for a running one"
            )
            return self.leave_out("triton", reason)
        name = self.manifest.name
        source = self.stage_of_file(live.file, live.precision)
        if source is None:
            # An engine that does not run here is represented by the file that it was built from.
            built_from = onnx_file(live.precision, Int8Target.TENSORRT)
            source = self.stage_of_file(built_from, live.precision)
        if source is None:
            raise ArtifactError(
                f"the server serves {live.file}, which does not run here, and {built_from}, "
                "which it was built from, is missing; convert the model again"
            )
        precision, shown = source.precision, live.file
        is_fp32 = precision is Precision.FP32
        if precision is Precision.BF16:
            shown += f" in {precision}"

        def runner(step: str) -> Runner:
            triton: Runner = TritonRunner(f"{name}{step}", live.url, live.protocol)
            return self.stack.enter_context(triton)

        decoded = source.name + (stages.FAST_DECODE if live.fast_decode else "")
        more: dict[str, Any] = {"precision": precision, "fast_decode": live.fast_decode}
        preprocess = partial(stages.run_image, runner("_preprocess"))
        step = partial(stages.run_preprocessing, source, preprocess)
        title = f"{name}_preprocess, called with the image"
        self.add(stages.PREPROCESS, decoded, title, step, Part.INPUTS, IDENTICAL, **more)
        network = TritonRunner(f"{name}_network", live.url, live.protocol)
        title = f"{name}_network, serving {shown} over {live.protocol}"
        names = stages.NETWORK, stages.PREPROCESS, title
        self.add_network(network, *names, rounds=not is_fp32, **more)
        outputs = served_task(self.manifest.task).network_outputs
        step = partial(stages.run_postprocessing, outputs, runner("_postprocess"))
        limits = self.comparison.same_code_limits
        title = f"{name}_postprocess, called with the network's outputs"
        self.add(stages.POSTPROCESS, stages.NETWORK, title, step, Part.ANSWERS, limits, **more)
        step = partial(stages.run_ensemble, runner(""))
        # The network runs a second time, and a GPU may round differently from run to run.
        limits_of = Precision.FP32 if is_fp32 else Precision.FP16
        limits = self.comparison.release_limits(limits_of, of_answers=True)
        title = f"{name}, image in, answers out"
        self.add(stages.ENSEMBLE, stages.POSTPROCESS, title, step, Part.ANSWERS, limits, **more)

    def stage_of_file(self, file: str, precision: Precision) -> Stage | None:
        return next((s for s in self.made if (s.file, s.precision) == (file, precision)), None)

    def onnx_runner(self, model: Path | bytes) -> Runner:
        providers: Any = CUDA if self.options.device == "cuda" else CPU
        # With images of any size the arena would keep the most memory that each ever needed.
        arena = self.pipeline.has_fixed_size
        return OnnxRuntimeRunner(model, providers, self.options.threads, arena=arena)
