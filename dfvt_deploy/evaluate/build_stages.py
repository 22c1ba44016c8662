"""The stages that a validation runs, with open runners, and those that it cannot run and why."""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
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
from ..runners import Runner, Tensors, open_network
from ..runners.onnx_runtime import CPU, CUDA, OnnxRuntimeRunner
from ..runners.triton import TritonRunner, image_request
from ..types import Int8Target, Precision
from .live_server import Served
from .options import ValidateOptions
from .results import NotRun
from .stages import Stage, StageOutputs, prepared_by

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


@dataclass
class Stages:
    """The stages in the order in which an image passes them, with open runners, which `stack`
    closes, and those that are `not_run`. `live` is the running server, if there is one."""

    artifact: Artifact
    options: ValidateOptions
    live: Served | None
    stack: ExitStack
    made: list[Stage] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.manifest = self.artifact.manifest
        self.comparison = comparison_of(self.manifest.task)
        served = [self.live.precision] if self.live else []
        self.asked = (*self.options.precisions, *served)
        self.pipeline = Pipeline(self.manifest, self.live.answer_options if self.live else {})

    def build(self, model: "nn.Module | None") -> None:
        """Open a runner for every stage. The PyTorch model is the reference, model.onnx without it.
        Raises DfvtError where a stage that the options name cannot run, or model.onnx cannot."""
        if model is not None:
            self.add_pytorch(model)
        else:
            for name in ("pytorch", "onnx"):
                self.leave_out(name, "--against onnx: model.onnx is the reference")
        path, source = self.artifact.onnx_path(), None if model is None else "onnx"
        title = f"{path.name}, simplified"
        self.add_network(self.onnx_runner(path), "simplified", source, title, file=path.name)
        for precision in (Precision.FP16, Precision.INT8):
            self.add_converted(precision)
        self.add_bfloat16()
        self.add_engines()
        self.add_fast_decode()
        self.add_served()

    def leave_out(self, name: str, reason: str) -> None:
        self.not_run.append(NotRun(name=name, reason=reason))

    def add(self, *fields: Any, **more: Any) -> None:
        """Add a stage by the fields of `Stage` that follow the task."""
        self.made.append(Stage(self.manifest.task, *fields, **more))

    def add_network(
        self,
        runner: Runner,
        name: str,
        source: str | None,
        title: str,
        precision: Precision = Precision.FP32,
        file: str | None = None,
        **more: Any,
    ) -> None:
        """Add a stage that runs the network with another runner."""
        self.stack.enter_context(runner)
        before = next((stage.precision for stage in self.made if stage.name == source), precision)
        more |= {"precision": precision, "changes": precision is not before, "file": file}

        def step(before: StageOutputs) -> StageOutputs:
            outputs = runner.infer(self.pipeline.feed(before.inputs))
            answers = self.pipeline.postprocess(before.inputs, outputs)
            return replace(before, outputs=outputs, answers=answers)

        self.add(name, source, title, step, "outputs", self.comparison.limits[precision], **more)

    def add_pytorch(self, model: "nn.Module") -> None:
        """The PyTorch model, and the graph as torch.onnx writes it, before `export` simplifies."""
        from ..exporters.options import ExportOptions
        from ..exporters.recipe import onnx_from_graph, recipe_of
        from ..runners.pytorch import PytorchRunner

        manifest, device = self.manifest, self.options.device
        pytorch = PytorchRunner(manifest, model, device, self.options.threads)
        self.add_network(pytorch, "pytorch", None, "PyTorch, float32")
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
        self.add_network(runner, "onnx", "pytorch", "ONNX as torch.onnx wrote it")

    def add_converted(self, precision: Precision) -> None:
        """Add a stage for each file of a precision; INT8 may have one for each target."""
        wanted = self.options.precisions
        targets = _targets(self.artifact, precision)
        if not targets:
            remedy = self.artifact.command("convert", "--precision", precision)
            reason = f"there is no {ONNX_FILES[precision]}; make it with: {remedy}"
            return self.leave_out(str(precision), reason)
        if wanted and precision not in self.asked:
            return self.leave_out(str(precision), f"left out: --precision {', '.join(wanted)}")
        for target in targets:
            path = self.artifact.onnx_path(precision, target)
            name = str(precision) if target is Int8Target.CPU else f"{precision} {target}"
            runner = self.onnx_runner(path)
            if target is Int8Target.OPENVINO:
                if not find_spec("openvino"):
                    self.leave_out(name, "openvino is not installed")
                    continue
                runner = self.openvino_runner(path, precision)
            self.add_network(runner, name, "simplified", path.name, precision, path.name)

    def add_bfloat16(self) -> None:
        """Add model.onnx in bfloat16 where that is asked for, or served."""
        name, precision, path = "openvino bf16", Precision.BF16, self.artifact.onnx_path()
        if precision not in self.asked:
            return self.leave_out(name, f"not asked for: --precision {precision}")
        runner = self.openvino_runner(path, precision)
        title = f"{path.name}, OpenVINO in bfloat16"
        self.add_network(runner, name, "simplified", title, precision, path.name)

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
                self.add_engine(name, self.manifest.files[name].precision)
            except DfvtError as error:
                if name in wanted:
                    raise
                self.leave_out(name, str(error))

    def add_engine(self, name: str, precision: Precision) -> None:
        built_from = self.artifact.onnx_path(precision, Int8Target.TENSORRT).name
        source = self.stage_of_file(built_from, precision)
        if source is None:
            raise ArtifactError(f"it is compared with {built_from}, which was left out")
        runner = open_network(self.artifact.directory / name, "tensorrt", precision)
        self.add_network(runner, name, source.name, f"{name}, TensorRT", precision, name)

    def add_fast_decode(self) -> None:
        """Add to each file's stage one with images decoded at reduced scale, if asked or served."""
        if not (self.options.fast_decode or (self.live and self.live.fast_decode)):
            return
        pipeline = replace(self.pipeline, fast_decode=True)
        more: dict[str, Any] = {"changes": True, "fast_decode": True}
        more["step_limits"] = self.comparison.limits[Precision.INT8]
        for source in [stage for stage in self.made if stage.file]:
            step = prepared_by(pipeline.read, source)
            name, title = (f"{text} fast-decode" for text in (source.name, source.title))
            stage = replace(source, name=name, source=source.name, title=title, step=step, **more)
            self.made.append(stage)

    def add_served(self) -> None:
        from ..serving.tasks import served_task

        live, name, protocol = self.live, self.manifest.name, self.options.protocol
        if live is None:
            reason = (
                f"no server: make a repository with {self.artifact.command('populate')}, and give "
                "--serve to start a server on it, or --url for a running one"
            )
            return self.leave_out("triton", reason)
        source = self.served_source(live)
        precision, sent = source.precision, live.file
        if precision is Precision.BF16:
            sent += f" in {precision}"
        more: dict[str, Any] = {"precision": precision, "fast_decode": live.fast_decode}

        def opened(step: str) -> Runner:
            return self.stack.enter_context(TritonRunner(f"{name}{step}", live.url, protocol))

        outputs = served_task(self.manifest.task).network_outputs
        preprocess, postprocess, ensemble = map(opened, ("_preprocess", "_postprocess", ""))

        def prepare(encoded: bytes) -> Tensors:
            return preprocess.infer(image_request(encoded))

        def postprocessed(before: StageOutputs) -> StageOutputs:
            sizes = {name: value for name, value in before.inputs.items() if name != "images"}
            taken = {name: before.outputs[name] for name in outputs}
            return replace(before, answers=postprocess.infer({**taken, **sizes}))

        def answered(before: StageOutputs) -> StageOutputs:
            return replace(before, answers=ensemble.infer(image_request(before.encoded)))

        decoded = source.name + (" fast-decode" if live.fast_decode else "")
        step = prepared_by(prepare, source)
        title = f"{name}_preprocess, called with the image"
        self.add("triton preprocess", decoded, title, step, "inputs", IDENTICAL, **more)
        network = TritonRunner(f"{name}_network", live.url, protocol)
        title = f"{name}_network, serving {sent} over {protocol}"
        self.add_network(network, "triton network", "triton preprocess", title, **more)
        names = "triton postprocess", "triton network"
        title = f"{name}_postprocess, called with the network's outputs"
        limits = self.comparison.same_code_limits
        self.add(*names, title, postprocessed, "answers", limits, **more)
        # The network runs a second time, and a GPU may round differently from run to run.
        limits_of = Precision.FP32 if precision is Precision.FP32 else Precision.FP16
        limits = self.comparison.answer_limits[limits_of]
        names, title = ("triton ensemble", "triton postprocess"), f"{name}, image in, answers out"
        self.add(*names, title, answered, "answers", limits, **more)

    def served_source(self, live: Served) -> Stage:
        """The stage of the file that the server serves; where that is an engine that does not run
        here, the stage of the file that it was built from."""
        source = self.stage_of_file(live.file, live.precision)
        if source is None:
            built_from = onnx_file(live.precision, Int8Target.TENSORRT)
            source = self.stage_of_file(built_from, live.precision)
        if source is None:
            raise ArtifactError(
                f"the server serves {live.file}, which does not run here, and {built_from}, "
                "which it was built from, is missing; convert the model again"
            )
        return source

    def stage_of_file(self, file: str, precision: Precision) -> Stage | None:
        return next((s for s in self.made if (s.file, s.precision) == (file, precision)), None)

    def openvino_runner(self, path: Path, precision: Precision) -> Runner:
        return open_network(path, "openvino", precision, threads=self.options.threads)

    def onnx_runner(self, model: Path | bytes) -> Runner:
        providers: Any = CUDA if self.options.device == "cuda" else CPU
        # With images of any size the arena would keep the most memory that each ever needed.
        arena = self.pipeline.has_fixed_size
        return OnnxRuntimeRunner(model, providers, self.options.threads, arena=arena)
