"""TensorRT and TensorRT-RTX plans on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..engines.engine import open_engine, read_plan_header
from ..engines.machine import bindings
from ..errors import ArtifactError, BadInput, StageFailed
from ..gpu.devices import GpuError, InvalidInput, gpu
from ..gpu.plan import LoadedPlan
from . import Tensors


class TensorRTRunner:
    """One plan, with its record beside it, on the first GPU, verified against its record and
    against `source`, the ONNX file that it must have been built from. Entering raises ArtifactError
    where the plan is damaged, stale, or for another TensorRT or GPU, StageFailed where there is no
    GPU or no TensorRT of the plan's kind, or TensorRT does not take the plan. `infer` raises
    BadInput where an input does not fit the plan's profile, with its name, shape and the range,
    StageFailed where the run failed."""

    def __init__(self, path: Path, *, source: Path | None = None) -> None:
        self.path, self.source = path, source

    def __enter__(self) -> "TensorRTRunner":
        version = bindings(read_plan_header(self.path).flavor).__version__
        with _translated():
            capability = gpu().compute_capability
        fitting = {"runtime_version": version, "compute_capability": capability}
        engine = open_engine(self.path, source=self.source, **fitting)
        if engine.record.flags.weights_stripped:
            raise ArtifactError(
                f"{self.path} was built without its weights; build it again without "
                "--strip-weights to run it"
            )
        with _translated():
            self._plan = LoadedPlan(self.path)
        return self

    def __exit__(self, *raised: object) -> None:
        self._plan.__exit__(*raised)

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        with _translated():
            return self._plan.infer(feed)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise BadInput(str(error)) from error
    except GpuError as error:
        raise StageFailed(str(error)) from error
