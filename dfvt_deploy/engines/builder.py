"""The calls of TensorRT: one ONNX file to one plan, for both flavors and versions 10.12 to 11.

Precision is in the ONNX file: networks are strongly typed, which TensorRT 11 always does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, StageFailed
from ..files import staged
from ..progress import steps_bar
from ..types import Precision
from .bindings import bindings
from .gpu import Gpu
from .layers import inspected_layers, network_layers, require_precision
from .quantised import signed_qdq
from .record import BuildFlags, ComputeLayers, Flavor, ShapeProfile

if TYPE_CHECKING:
    import tensorrt
    from rich.progress import Progress, TaskID

#: Parser errors that are shown.
_SHOWN_ERRORS = 5

#: What to do about an operator that a parser refuses.
_REMEDIES = {
    "RoiAlign": "TensorRT-RTX has no RoiAlign without a GPU: use --flavor tensorrt for detection, "
    "or serve the ONNX file with onnxruntime",
    "NonMaxSuppression": "export the model again with --nms-op loop, the default",
    "Attention": "export the model again with --opset 20",
    "RMSNormalization": "export the model again with --opset 20",
}
_REMEDY = (
    "export the model again with the default --opset, use a newer TensorRT, or serve the ONNX "
    "file with onnxruntime"
)


@dataclass(frozen=True)
class BuildTask:
    """One plan to be built. `targets` are compute capabilities for TensorRT-RTX.
    `timing_cache` is read where it exists, and written."""

    onnx: Path
    name: str
    precision: Precision
    flavor: Flavor
    profile: Mapping[str, ShapeProfile]
    flags: BuildFlags
    targets: Sequence[str] = ()
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What was built: the serialised engine, and what its layers compute in."""

    content: bytes
    network_layers: ComputeLayers
    inspected_layers: ComputeLayers | None
    seconds: float


def plan_from_onnx(task: BuildTask, gpu: Gpu | None) -> Plan:
    """Parse, count the precisions, build, and look into the engine where there is a GPU.

    Raises:
        ArtifactError: the file's inputs are not those of its manifest.
        StageFailed: the parser refuses an operator, the layers do not compute in the precision
            asked for, or the build failed.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings(task.flavor)

    errors: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                errors.append(msg)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if task.precision is Precision.INT8:
        parsed = parser.parse(signed_qdq(task.onnx))
    else:
        parsed = parser.parse_from_file(str(task.onnx))
    if not parsed:
        raise _refused(task, parser)
    counted = network_layers(network)
    require_precision(task.onnx.name, counted, task.precision)

    config = builder.create_builder_config()
    _configure(config, task)
    _add_profile(builder, network, config, task)
    cache = _timing_cache(config, task)
    started = time.perf_counter()
    with _Monitor.of(trt, f"{task.name}: {task.precision}") as monitor:
        config.progress_monitor = monitor.callbacks
        memory = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - started
    if monitor.interrupted:
        raise KeyboardInterrupt
    if memory is None:
        reason = errors[-1] if errors else "it gave no reason"
        raise StageFailed(f"{task.flavor.product} could not build {task.onnx}: {reason}")
    if cache is not None and task.timing_cache is not None:
        with staged(task.timing_cache) as temporary:
            temporary.write_bytes(memoryview(cache.serialize()))
    content = bytes(memoryview(memory))
    inspected = _inspect(task.flavor, log, content) if gpu is not None else None
    if inspected is not None:
        require_precision(f"the engine of {task.onnx.name}", inspected, task.precision)
    return Plan(content, counted, inspected, seconds)


def _refused(task: BuildTask, parser: tensorrt.OnnxParser) -> StageFailed:
    lines = []
    for index in range(min(parser.num_errors, _SHOWN_ERRORS)):
        error = parser.get_error(index)
        operator = error.node_operator() or "the file"
        where = f" (node {error.node_name()})" if error.node_name() else ""
        lines.append(f"{operator}{where}: {error.desc()}; {_REMEDIES.get(operator, _REMEDY)}")
    if (more := parser.num_errors - _SHOWN_ERRORS) > 0:
        lines.append(f"and {more} more")
    return StageFailed(
        f"{task.flavor.product} cannot parse {task.onnx}: " + ". ".join(lines or [_REMEDY])
    )


def _configure(config: tensorrt.IBuilderConfig, task: BuildTask) -> None:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings(task.flavor)
    flags = task.flags
    for wanted, flag in (
        (flags.tf32, trt.BuilderFlag.TF32),
        (flags.version_compatible, trt.BuilderFlag.VERSION_COMPATIBLE),
        (flags.weights_stripped, trt.BuilderFlag.STRIP_PLAN),
    ):
        config.set_flag(flag) if wanted else config.clear_flag(flag)
    config.builder_optimization_level = flags.optimization_level
    # Without it the inspector knows the layers' names and nothing else.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if flags.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, flags.workspace_bytes)
    if flags.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if task.targets:
        _set_targets(config, trt, task.targets)


def _set_targets(config: Any, trt: Any, targets: Sequence[str]) -> None:
    """TensorRT-RTX's own calls, of which TensorRT's stubs know nothing."""
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        name = f"SM{target.replace('.', '')}"
        if not config.set_compute_capability(trt.ComputeCapability.__members__[name], index):
            raise StageFailed(f"TensorRT-RTX refused the compute capability {target}")


def rtx_compute_capabilities() -> tuple[str, ...]:
    """Those that TensorRT-RTX can be told to build for.

    Raises:
        MissingDependency: it is not installed.
    """
    names = bindings(Flavor.RTX).ComputeCapability.__members__
    return tuple(f"{n[2:-1]}.{n[-1]}" for n in names if n.startswith("SM"))


def _add_profile(
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    task: BuildTask,
) -> None:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings(task.flavor)
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    if inputs != task.profile.keys():
        raise ArtifactError(
            f"{task.onnx} has the inputs {', '.join(sorted(inputs))}, its manifest says "
            f"{', '.join(sorted(task.profile))}; export the model again"
        )
    profile = builder.create_optimization_profile()
    for name, shapes in task.profile.items():
        least, usual, largest = (trt.Dims([*d]) for d in (shapes.min, shapes.opt, shapes.max))
        profile.set_shape(name, least, usual, largest)
    config.add_optimization_profile(profile)


def _timing_cache(config: tensorrt.IBuilderConfig, task: BuildTask) -> tensorrt.ITimingCache | None:
    """The cache of earlier builds, a new one where that does not fit, None without a file."""
    if task.timing_cache is None:
        return None
    kept = task.timing_cache.read_bytes() if task.timing_cache.is_file() else b""
    for content in dict.fromkeys((kept, b"")):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _inspect(flavor: Flavor, log: tensorrt.ILogger, content: bytes) -> ComputeLayers | None:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings(flavor)
    engine = trt.Runtime(log).deserialize_cuda_engine(content)
    return None if engine is None else inspected_layers(engine, trt.LayerInformationFormat.JSON)


class _Monitor(AbstractContextManager["_Monitor"]):
    """Shows the builder's phases, and ends the build when the user interrupts it.

    TensorRT calls from several threads. An exception would have to pass through its C++ frames,
    so that an interrupt is kept until the build has ended.
    """

    def __init__(self, title: str) -> None:
        self.interrupted = False
        self.callbacks: Any = None
        self._title = title
        self._bar: Progress = steps_bar()
        self._phases: dict[str, TaskID] = {}

    @classmethod
    def of(cls, trt: Any, title: str) -> _Monitor:
        monitor = cls(title)

        class Callbacks(trt.IProgressMonitor):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(
                self, phase_name: str, parent_phase: str | None, num_steps: int
            ) -> None:
                monitor.start(phase_name, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return monitor.step(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                monitor.finish(phase_name)

        monitor.callbacks = Callbacks()
        return monitor

    def __enter__(self) -> _Monitor:
        self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.stop()

    def start(self, phase: str, steps: int) -> None:
        try:
            self._phases[phase] = self._bar.add_task(f"{self._title}: {phase}", total=steps)
        except KeyboardInterrupt:
            self.interrupted = True

    def step(self, phase: str, step: int) -> bool:
        """Returns whether to go on."""
        try:
            self._bar.update(self._phases[phase], completed=step + 1)
        except KeyboardInterrupt:
            self.interrupted = True
        except KeyError:
            pass
        return not self.interrupted

    def finish(self, phase: str) -> None:
        try:
            if (task := self._phases.pop(phase, None)) is not None:
                self._bar.remove_task(task)
        except KeyboardInterrupt:
            self.interrupted = True
