"""ONNX files in onnxruntime."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import StageFailed, optional
from . import InferenceFailed, Tensors

CPU = ("CPUExecutionProvider",)

#: A GPU without TF32, which rounds factors to 10 bits.
CUDA = (("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider")

_CUDA_REMEDY = "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"


@dataclass(eq=False)
class OnnxRuntimeRunner:
    """One ONNX model, a file or the serialised model itself, in one session of onnxruntime.

    providers: execution providers in order of preference; the CPU alone by default, so that figures
        can be compared. The first one must be available, since onnxruntime would otherwise run on
        the next one without an error.
    threads: how many threads one operator uses; all cores by default.
    arena: whether memory is kept between runs. With inputs of many sizes the session then keeps the
        most that it ever needed.
    spare: whether nodes run in an order that frees tensors early, for graphs with many outputs.
    spinning: whether waiting threads spin, which is fast where nothing else needs the cores.

    Entering raises StageFailed where onnxruntime cannot load the file, or lacks the first provider,
    MissingDependency where it is not installed.
    """

    model: Path | bytes
    providers: Sequence[str | tuple[str, dict[str, str]]] = CPU
    threads: int | None = None
    _: KW_ONLY
    arena: bool = True
    spare: bool = False
    spinning: bool = True
    _session: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.name = "the graph" if isinstance(self.model, bytes) else str(self.model)

    def __enter__(self) -> "OnnxRuntimeRunner":
        onnxruntime = optional("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # The warnings are about leftovers of its own optimiser.
        if self.threads:
            options.intra_op_num_threads = self.threads
        options.enable_cpu_mem_arena = options.enable_mem_pattern = self.arena
        if not self.spinning:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.spare:
            options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        try:
            self._session = onnxruntime.InferenceSession(
                self.model if isinstance(self.model, bytes) else str(self.model),
                options,
                providers=list(self.providers),
            )
        except Exception as error:  # onnxruntime's exceptions have no common base.
            raise StageFailed(
                f"onnxruntime cannot load {self.name}: {_first_line(error)}; make the file again, "
                "or use another release of onnxruntime"
            ) from error
        first, found = self.providers[0], self._session.get_providers()
        wanted = first if isinstance(first, str) else first[0]
        if wanted not in found:
            self._session = None
            remedy = f"; run: {_CUDA_REMEDY}" if wanted == "CUDAExecutionProvider" else ""
            raise StageFailed(
                f"onnxruntime {onnxruntime.__version__} runs {self.name} on "
                f"{', '.join(found)}, not on {wanted}; it was built with "
                f"{', '.join(onnxruntime.get_available_providers())}{remedy}"
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._session = None

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Run the network on its inputs, by name, and return all of its outputs. Raises
        InferenceFailed where the inputs do not fit the network, or a node failed on them."""
        names = [output.name for output in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, dict(feed)), strict=True))
        except Exception as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in feed.items())
            text = f"onnxruntime cannot run {self.name} on inputs of shapes {shapes}"
            raise InferenceFailed(f"{text}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """The first line of an error's message, without the number and name of its kind."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line.split(" : ", 3)[-1] if line.startswith("[ONNXRuntimeError]") else line
