"""TensorRT and TensorRT-RTX plans on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from ..engines.record import MAGIC, open_engine, read_plan_header
from ..errors import ArtifactError, BadInput, StageFailed
from . import Tensors
from .gpu import cuda, plan


class TensorRTRunner:
    """One plan on one GPU, verified against its record first.

    Args:
        path: the plan, its record beside it.
        source: the ONNX file that it must have been built from.
        device: number of the GPU.
        cuda_graph: run repeated shapes as a CUDA graph, where the plan allows it.

    Raises (on entering):
        ArtifactError: the plan is damaged, stale, or for another TensorRT or GPU.
        StageFailed: no GPU, no TensorRT of the plan's kind, or it does not take the plan.

    `infer` raises:
        BadInput: an input does not fit the plan's profile; its name, shape and the range.
        StageFailed: the run failed.
    """

    def __init__(
        self,
        path: Path,
        *,
        source: Path | None = None,
        device: int = 0,
        cuda_graph: bool = False,
    ) -> None:
        self.path = path
        self.source = source
        self.device = device
        self.cuda_graph = cuda_graph
        self._plan: plan.LoadedPlan | None = None

    def __enter__(self) -> TensorRTRunner:
        flavor = read_plan_header(self.path).flavor
        with _translated():
            version = plan.tensorrt_module(MAGIC[flavor].to_bytes(4, "little")).__version__
            capability = cuda.gpu(self.device).compute_capability
        engine = open_engine(
            self.path,
            source=self.source,
            runtime_version=version,
            compute_capability=capability,
        )
        if engine.record.flags.weights_stripped:
            raise ArtifactError(
                f"{self.path} was built without its weights; build it again without "
                "--strip-weights to run it"
            )
        with _translated():
            self._plan = plan.LoadedPlan(self.path, self.device, self.cuda_graph)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._plan is not None:
            self._plan.__exit__(kind, error, trace)
            self._plan = None

    @property
    def graph_refused(self) -> str:
        """Why runs are no CUDA graph; empty where they are."""
        assert self._plan is not None, "the runner is closed"
        return self._plan.graph_refused

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        assert self._plan is not None, "the runner is closed"
        with _translated():
            return self._plan.infer(feed)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except plan.Refused as error:
        raise BadInput(str(error)) from error
    except cuda.GpuError as error:
        raise StageFailed(str(error)) from error
