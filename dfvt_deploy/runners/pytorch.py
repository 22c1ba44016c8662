"""The model in PyTorch, float32: what every later form of it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..artifact import Manifest
from ..errors import BadInput, CheckpointError
from ..files import sha256_of
from ..models.build import build_model, fill_untrained
from ..models.checkpoint import load_backbone_checkpoint, load_checkpoint
from ..models.published import published_checkpoint
from ..models.roi_heads import PaddedDetections
from ..tasks.images import normalise
from ..types import InputKind, Task
from . import Tensors

Device = Literal["cpu", "cuda"]


def model_from_manifest(manifest: Manifest, checkpoint: str | Path | None = None) -> nn.Module:
    """The model that was exported, built again from the checkpoint it came from.

    Args:
        checkpoint: where that checkpoint is, or `published`. Not needed for untrained weights,
            which are made again, nor for the published ones; otherwise a file of the recorded
            name in the working directory by default.

    Raises:
        CheckpointError: the file is not there, or its SHA-256 is not the manifest's.
    """
    record = manifest.checkpoint
    model = build_model(manifest.task, manifest.variant, manifest.num_classes, manifest.nms)
    if record.source in ("untrained", "backbone"):
        fill_untrained(model)
    if record.source == "untrained":
        if checkpoint is not None:
            raise CheckpointError(
                f"{manifest.name} was exported without a checkpoint, so {checkpoint} is not its "
                "own; leave --checkpoint out, or export again with it"
            )
        return model
    path = _checkpoint_file(manifest, checkpoint)
    found = sha256_of(path)
    if found != record.sha256:
        raise CheckpointError(
            f"{path} is not the checkpoint of {manifest.name}: its SHA-256 is {found}, the "
            f"manifest's {record.sha256}; give --checkpoint the file it was exported from, or "
            "export again from this one"
        )
    load = load_backbone_checkpoint if record.source == "backbone" else load_checkpoint
    load(model, path)
    return model


def _checkpoint_file(manifest: Manifest, checkpoint: str | Path | None) -> Path:
    record = manifest.checkpoint
    published = checkpoint is None and record.source == "published"
    if published or checkpoint == "published":
        # A published backbone is the classifier's file.
        task = Task.CLASSIFICATION if record.source == "backbone" else manifest.task
        return published_checkpoint(task, manifest.variant)
    path = Path(checkpoint or record.file or "")
    if path.is_file():
        return path
    if checkpoint is not None:
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file")
    raise CheckpointError(
        f"{manifest.name} was exported from {record.file}, which is not in the working directory; "
        "give --checkpoint the file, or compare with --against onnx, which gives no verdict"
    )


class PytorchRunner:
    """The published computation on a model, with the inputs and outputs of its exported graph.

    Normalisation is that of `tasks`, and the class map the argmax of enlarged logits, not the
    exported graph's own, so that a mistake in either shows.

    Args:
        device: `cpu`, or `cuda`, without TF32.
    """

    def __init__(self, manifest: Manifest, model: nn.Module, device: Device = "cpu") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise BadInput("--device cuda: PyTorch finds no GPU here; use --device cpu")
        self.manifest = manifest
        self.model = model
        self.device = device

    def __enter__(self) -> PytorchRunner:
        self.model.to(self.device)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.model.to("cpu")

    def infer(self, feed: Tensors) -> dict[str, NDArray[Any]]:
        images = feed["images"]
        if self.manifest.input_kind is InputKind.UINT8:
            images = normalise(images)
        inputs = [images, *(v for k, v in feed.items() if k == "image_sizes")]
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            tensors = [torch.from_numpy(np.ascontiguousarray(v)).to(self.device) for v in inputs]
            outputs = _OUTPUTS[self.manifest.task](self.model, *tensors)
            names = {spec.name: spec.dtype for spec in self.manifest.outputs}
            return {k: v.cpu().numpy().astype(names[k]) for k, v in outputs.items() if k in names}


def _classify(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    return {"logits": model(images)}


def _segment(model: nn.Module, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
    logits = model(images, image_sizes)
    enlarged = F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
    return {"class_map": enlarged.argmax(1), "logits": logits}


def _detect(model: Any, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
    found: PaddedDetections = model.detect(images, image_sizes)
    return found._asdict()


_OUTPUTS: Mapping[Task, Callable[..., dict[str, Tensor]]] = {
    Task.CLASSIFICATION: _classify,
    Task.SEGMENTATION: _segment,
    Task.DETECTION: _detect,
}
