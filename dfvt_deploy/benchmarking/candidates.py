"""The networks that can be timed, as data that another process can open."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..artifact import Artifact, read_manifest
from ..errors import ArtifactError, BadInput
from ..manifest import MANIFEST
from ..runners import Runner, network_file, open_network
from ..serving.backend_names import BackendName
from ..types import Precision
from .options import Runtime

#: The package that each runtime is, and the precisions that it computes in.
_RUNTIMES = {
    Runtime.PYTORCH: ("torch", (Precision.FP32,)),
    Runtime.ONNXRUNTIME: ("onnxruntime", (Precision.FP32, Precision.FP16, Precision.INT8)),
    Runtime.OPENVINO: ("openvino", (Precision.FP32, Precision.BF16, Precision.INT8)),
    Runtime.TENSORRT: ("tensorrt", (Precision.FP32, Precision.FP16, Precision.INT8)),
}


@dataclass(frozen=True)
class Candidate:
    """A network in a runtime; `verdict` and `loss` as in `results.Row`.

    model: the name of the exported model; the file's path where it is of none.
    file: the file; for PyTorch that of the folder whose model is built again.
    fast_decode: whether it is served with images decoded at reduced scale.
    """

    model: str
    runtime: Runtime
    precision: Precision
    file: Path
    verdict: str = "unvalidated"
    loss: float | None = None
    fast_decode: bool = False

    @property
    def title(self) -> str:
        return f"{self.runtime} {self.precision}{' fast-decode' if self.fast_decode else ''}"

    @property
    def servable(self) -> bool:
        """Whether a backend of Triton's serves it."""
        pytorch = self.runtime is Runtime.PYTORCH
        return not pytorch and self.precision in BackendName(self.runtime).facts.precisions

    def open(self, threads: int, streams: int, stack: ExitStack) -> list[Runner]:
        """A runner for each inference at a time; together they have `threads` threads."""
        if self.runtime is Runtime.OPENVINO:  # one, which several threads may call
            return [stack.enter_context(self._runner(threads, streams))] * streams
        each = max(1, threads // streams)
        return [stack.enter_context(self._runner(each)) for _ in range(streams)]

    def _runner(self, threads: int, streams: int | None = None) -> Runner:
        if self.runtime is not Runtime.PYTORCH:
            return open_network(
                self.file, self.runtime, self.precision, threads=threads, streams=streams
            )
        import torch

        from ..models.build import model_from_manifest
        from ..runners.pytorch import PytorchRunner

        torch.set_num_threads(threads)
        manifest = read_manifest(self.file.parent / MANIFEST)
        return PytorchRunner(manifest, model_from_manifest(manifest))


def candidates_of(
    artifact: Artifact, runtimes: Sequence[Runtime] = (), precisions: Sequence[Precision] = ()
) -> list[Candidate]:
    """All that the folder and the installed runtimes allow; BadInput where that is nothing."""
    found = []
    for runtime, (package, possible) in _RUNTIMES.items():
        if (runtimes and runtime not in runtimes) or not find_spec(package):
            continue
        for precision in possible:
            if not precisions or precision in precisions:
                with suppress(ArtifactError):  # there is no such file
                    found.append(candidate_of(artifact, runtime, precision))
    if not found:
        raise BadInput(
            f"{artifact.directory} has nothing of what --runtime and --precision ask for; it holds "
            f"{', '.join(artifact.manifest.files)}; make more with: "
            f"{artifact.command('convert', '--precision', 'int8')}"
        )
    return found


def candidate_of(
    artifact: Artifact, runtime: Runtime, precision: Precision, fast_decode: bool = False
) -> Candidate:
    """The candidate of a runtime, a precision and a decoding, with the verdict on that form. Raises
    ArtifactError where the file was not made, or is stale."""
    name = artifact.manifest.name
    if runtime is Runtime.PYTORCH:
        return Candidate(name, runtime, precision, artifact.onnx_path(), "reference")
    path = network_file(artifact, runtime, precision)
    verdict = artifact.verdict(path.name, precision, fast_decode)
    word = verdict.verdict if verdict else "unvalidated"
    loss = verdict.figures.get("drop") if verdict else None
    return Candidate(name, runtime, precision, path, word, loss, fast_decode)
