"""The model in PyTorch, float32: the reference that every later form of it is compared with."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import BadInput
from ..manifest import Manifest
from ..models.task_model import model_of
from ..tasks.images import normalise
from ..types import InputKind
from . import Tensors

Device = Literal["cpu", "cuda"]


class PytorchRunner:
    """The published computation, with the inputs and outputs of the exported graph. Images are
    normalised by `tasks` and outputs are computed by the task's `TaskModel.outputs`, not by the
    exported graph's own code, so that a mistake in either shows. `cuda` computes without TF32;
    BadInput is raised where PyTorch finds no GPU for it. PyTorch has as many `threads` while the
    runner is open."""

    def __init__(
        self,
        manifest: Manifest,
        model: nn.Module,
        device: Device = "cpu",
        threads: int | None = None,
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise BadInput("--device cuda: PyTorch finds no GPU here; use --device cpu")
        self.manifest, self.model, self.device = manifest, model, device
        self._threads, self._before = threads, torch.get_num_threads()

    def __enter__(self) -> "PytorchRunner":
        self.model.to(self.device)
        torch.set_num_threads(self._threads or self._before)
        return self

    def __exit__(self, *error: object) -> None:
        self.model.to("cpu")
        torch.set_num_threads(self._before)

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        """Run the model on the inputs of the exported graph, by name."""
        images = feed["images"]
        if self.manifest.input_kind is InputKind.UINT8:
            images = normalise(images)
        inputs = [images, *(v for k, v in feed.items() if k == "image_sizes")]
        compute = model_of(self.manifest.task).outputs
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            tensors = [torch.from_numpy(np.ascontiguousarray(v)).to(self.device) for v in inputs]
            outputs = compute(self.model, *tensors)
            names = {spec.name: spec.dtype for spec in self.manifest.outputs}
            return {k: v.cpu().numpy().astype(names[k]) for k, v in outputs.items() if k in names}
