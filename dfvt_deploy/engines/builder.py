"""TensorRT's own calls that make one plan of one ONNX file, for both flavors and 10.12 to 11.

Networks are strongly typed, as TensorRT 11 always has them: the ONNX file decides the precision.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifact import remake_remedy
from ..errors import ArtifactError, StageFailed, optional
from ..files import staged
from ..gpu.plan import error_log
from ..progress import steps_bar
from ..types import Precision
from .layers import layers_of_report, network_layers, require_precision
from .machine import Machine, bindings
from .options import BuildOptions
from .record import ComputeLayers, ShapeProfile

if TYPE_CHECKING:
    import tensorrt
    from rich.progress import Progress, TaskID

#: Most errors of the parser that are shown.
_SHOWN_ERRORS = 5

#: What to do about an operator that a parser refuses.
_REMEDIES = {
    "RoiAlign": "TensorRT-RTX has no RoiAlign without a GPU: use --flavor tensorrt for detection, "
    "or serve the ONNX file with onnxruntime",
    "Attention": "export the model again with --opset 20",
    "RMSNormalization": "export the model again with --opset 20",
}
_REMEDY = (
    "export the model again with the default --opset, use a newer TensorRT, or serve the ONNX "
    "file with onnxruntime"
)


@dataclass(frozen=True)
class BuiltPlan:
    """A serialised engine, what its layers compute in, and how long the build took."""

    content: bytes
    network_layers: ComputeLayers
    inspected_layers: ComputeLayers | None
    seconds: float


def plan_from_onnx(
    onnx: Path, profile: Mapping[str, ShapeProfile], options: BuildOptions, machine: Machine
) -> BuiltPlan:
    """Parse an ONNX file, whose types are the precision that the options name, count the precisions
    of its layers, and build the plan for the shapes of each input, by name. The machine's GPU, if
    the plan runs there, loads the engine and counts again. Raises ArtifactError where the file's
    inputs are not those of its manifest, or its numbers are quantised as TensorRT does not take
    them, StageFailed where the parser refuses an operator, the layers do not compute in the
    precision asked for, or the build failed."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings(options.flavor)
    precision, product = Precision(options.precision), options.flavor.product
    if precision is Precision.INT8:
        require_symmetric(onnx)
    log = error_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        raise StageFailed(f"{product} cannot parse {onnx}: {_parser_errors(parser)}")
    counted = network_layers(network)
    remedy = remake_remedy(onnx)
    require_precision(onnx.name, counted, precision, remedy)

    config = _configured(builder, network, onnx, profile, options)
    cache_file = machine.timing_cache(options.timing_cache_directory)
    cache = _timing_cache(config, cache_file) if cache_file else None
    started = time.perf_counter()
    with steps_bar() as bar:
        monitor = progress_monitor(trt, bar, f"{onnx.parent.name}: {precision}")
        config.progress_monitor = monitor
        memory = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - started
    if monitor.interrupted:
        raise KeyboardInterrupt
    if memory is None:
        reason = log.errors[-1] if log.errors else "it gave no reason"
        raise StageFailed(f"{product} could not build {onnx}: {reason}")
    if cache_file and cache is not None:
        with staged(cache_file) as temporary:
            temporary.write_bytes(memoryview(cache.serialize()))
    content = bytes(memoryview(memory))
    engine = trt.Runtime(log).deserialize_cuda_engine(content) if machine.inspects else None
    inspected = None
    if engine is not None:
        inspector = engine.create_engine_inspector()
        report = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        inspected = layers_of_report(report)
    if inspected is not None:
        require_precision(f"the engine of {onnx.name}", inspected, precision, remedy)
    return BuiltPlan(content, counted, inspected, seconds)


def _parser_errors(parser: "tensorrt.OnnxParser") -> str:
    lines = []
    for index in range(min(parser.num_errors, _SHOWN_ERRORS)):
        error = parser.get_error(index)
        operator = error.node_operator() or "the file"
        where = f" (node {error.node_name()})" if error.node_name() else ""
        lines.append(f"{operator}{where}: {error.desc()}; {_REMEDIES.get(operator, _REMEDY)}")
    if (more := parser.num_errors - _SHOWN_ERRORS) > 0:
        lines.append(f"and {more} more")
    return ". ".join(lines or [_REMEDY])


def _configured(
    builder: "tensorrt.Builder",
    network: "tensorrt.INetworkDefinition",
    onnx: Path,
    shapes_of: Mapping[str, ShapeProfile],
    options: BuildOptions,
) -> "tensorrt.IBuilderConfig":
    """The settings of one build, for the shapes of each input, by name."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings(options.flavor)
    config = builder.create_builder_config()
    for wanted, flag in (
        (options.tf32, trt.BuilderFlag.TF32),
        (options.version_compatible, trt.BuilderFlag.VERSION_COMPATIBLE),
        (options.strip_weights, trt.BuilderFlag.STRIP_PLAN),
    ):
        config.set_flag(flag) if wanted else config.clear_flag(flag)
    config.builder_optimization_level = options.optimization_level
    # At a lower verbosity the inspector reports the layers' names alone.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * 2**20)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.compute_capability:
        _set_targets(config, trt, options.compute_capability)
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    if inputs != shapes_of.keys():
        raise ArtifactError(
            f"{onnx} has the inputs {', '.join(sorted(inputs))}, its manifest says "
            f"{', '.join(sorted(shapes_of))}; export the model again"
        )
    profile = builder.create_optimization_profile()
    for name, shapes in shapes_of.items():
        least, usual, largest = (trt.Dims([*d]) for d in (shapes.min, shapes.opt, shapes.max))
        profile.set_shape(name, least, usual, largest)
    config.add_optimization_profile(profile)
    return config


def _set_targets(config: Any, trt: Any, targets: Sequence[str]) -> None:
    """Calls that TensorRT-RTX alone has, so TensorRT's type stubs do not know them."""
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        name = f"SM{target.replace('.', '')}"
        if not config.set_compute_capability(trt.ComputeCapability.__members__[name], index):
            raise StageFailed(f"TensorRT-RTX refused the compute capability {target}")


def _timing_cache(config: "tensorrt.IBuilderConfig", file: Path) -> "tensorrt.ITimingCache | None":
    """The cache of earlier builds, or a new one where the old one does not fit."""
    kept = file.read_bytes() if file.is_file() else b""
    for content in dict.fromkeys((kept, b"")):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def require_symmetric(path: Path) -> None:
    """Raise ArtifactError unless a file's quantised numbers are int8 with zero point 0."""
    onnx = optional("onnx")
    from ..onnx_model import load_onnx

    model = load_onnx(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        quantises = node.op_type in ("QuantizeLinear", "DequantizeLinear")
        for zero in (constants[n] for n in node.input[2:] if quantises and n in constants):
            points = onnx.numpy_helper.to_array(zero)
            if points.dtype != "int8" or any(points.flat):
                raise ArtifactError(
                    f"{path}: {node.name} has {points.dtype} numbers with the zero point "
                    f"{points.flat[0]}, TensorRT takes int8 and 0; {remake_remedy(path)}"
                )


def progress_monitor(trt: Any, bar: "Progress", title: str) -> Any:
    """An `IProgressMonitor` that shows the builder's phases in `bar`. TensorRT calls it from
    several threads, and an exception would have to pass through its C++ frames, so an interrupt by
    the user is kept in the attribute `interrupted`, and ends the build at its next step."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._phases: dict[str, TaskID] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._kept_interrupt():
                self._phases[phase_name] = bar.add_task(f"{title}: {phase_name}", total=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._kept_interrupt():
                if (task := self._phases.get(phase_name)) is not None:
                    bar.update(task, completed=step + 1)
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            with self._kept_interrupt():
                if (task := self._phases.pop(phase_name, None)) is not None:
                    bar.remove_task(task)

        @contextmanager
        def _kept_interrupt(self) -> Iterator[None]:
            try:
                yield
            except KeyboardInterrupt:
                self.interrupted = True

    return Monitor()
