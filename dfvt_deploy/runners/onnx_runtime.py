"""ONNX files in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from ..errors import MissingDependency, StageFailed
from . import Tensors

CPU = ("CPUExecutionProvider",)

#: A GPU without TF32, which rounds factors to 10 bits.
CUDA = (("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider")


class OnnxRuntimeRunner:
    """One ONNX file in one session.

    Args:
        providers: in order of preference; the CPU by default, so that figures compare. The first
            one must come up: onnxruntime would otherwise run on the next one without an error.
        threads: of one operator; onnxruntime's choice (all cores) by default.
        arena: keep memory between runs; with sizes that differ it keeps the most ever needed.
        spare: run nodes in an order that lets go of tensors early. For graphs with many outputs.
    """

    def __init__(
        self,
        path: Path,
        providers: Sequence[str | tuple[str, dict[str, str]]] = CPU,
        threads: int | None = None,
        *,
        arena: bool = True,
        spare: bool = False,
    ) -> None:
        self.path = path
        self.providers = providers
        self.threads = threads
        self.arena = arena
        self.spare = spare
        self._session: Any = None

    def __enter__(self) -> OnnxRuntimeRunner:
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependency("onnxruntime", "cpu") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its warnings are about what its own optimiser left over
        if self.threads:
            options.intra_op_num_threads = self.threads
        options.enable_cpu_mem_arena = options.enable_mem_pattern = self.arena
        if self.spare:
            options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=list(self.providers)
            )
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise StageFailed(f"onnxruntime cannot load {self.path}: {error}") from error
        first, found = self.providers[0], self._session.get_providers()
        wanted = first if isinstance(first, str) else first[0]
        if wanted not in found:
            self._session = None
            raise StageFailed(
                f"onnxruntime {onnxruntime.__version__} runs {self.path.name} on "
                f"{', '.join(found)}, not on {wanted}; it was built with "
                f"{', '.join(onnxruntime.get_available_providers())}" + _remedy(wanted)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session = None

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(feed)), strict=True))


def _remedy(provider: str) -> str:
    if provider != "CUDAExecutionProvider":
        return ""
    return "; run: pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
