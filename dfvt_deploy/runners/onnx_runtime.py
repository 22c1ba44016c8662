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
        providers: in order of preference; the CPU by default, so that figures compare.
        threads: of one operator; onnxruntime's choice (all cores) by default.
        arena: keep memory between runs; with sizes that differ it keeps the most ever needed.
    """

    def __init__(
        self,
        path: Path,
        providers: Sequence[str | tuple[str, dict[str, str]]] = CPU,
        threads: int | None = None,
        *,
        arena: bool = True,
    ) -> None:
        self.path = path
        self.providers = providers
        self.threads = threads
        self.arena = arena
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
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=list(self.providers)
            )
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise StageFailed(f"onnxruntime cannot load {self.path}: {error}") from error
        wanted = self.providers[0] if isinstance(self.providers[0], str) else self.providers[0][0]
        if (used := self._session.get_providers()[0]) != wanted:
            raise StageFailed(
                f"onnxruntime has no {wanted} here and would run on {used}; install "
                "onnxruntime-gpu with its CUDA libraries, or run on the CPU"
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
