"""An ONNX file compiled by OpenVINO, once for each batch size where only the batch is free.

The folder is copied to embedded servers, so it imports nothing else of the package. Enter through
`CompiledModels`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openvino


class CompiledModels:
    """A file compiled for the CPU; several threads may call `infer` at once.

    precision: the precision that OpenVINO chose for it, which a CPU may force.
    inputs: the inputs of the file.

    A model of one batch size is faster than one that takes them all, and holds the weights once
    more. One image and the first sizes that are asked for, `most_fixed` in all, get their own;
    other sizes, and files with other free dimensions, share one model.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any], most_fixed: int = 4) -> None:
        self._most_fixed = most_fixed
        self._core, self._file, self._settings = openvino.Core(), file, dict(settings)
        self._models: dict[int, Any] = {}
        self._lock, self._local = threading.Lock(), threading.local()
        source = self._core.read_model(file)
        self.inputs = source.inputs
        self._rest = {each.get_any_name(): _without_batch(each) for each in source.inputs}
        first = self._model(1 if None not in self._rest.values() else 0)
        self.precision: str = first.get_property("INFERENCE_PRECISION_HINT").to_string()

    def compile_for_all_sizes(self) -> None:
        """Compile the model of all sizes before a request needs it."""
        self._model(0)

    def infer(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """All outputs by name. Raises OpenVINO's own exceptions."""
        model = self._model(self._batch(feed))
        requests = self._local.__dict__.setdefault("requests", {})
        if id(model) not in requests:
            requests[id(model)] = model.create_infer_request()
        outputs = requests[id(model)].infer(dict(feed), share_inputs=True)
        return {output.get_any_name(): value for output, value in outputs.items()}

    def _batch(self, feed: Mapping[str, Any]) -> int:
        """The batch size of inputs that have the model's other dimensions; 0 for any other."""
        if any(value.shape[1:] != self._rest.get(name) for name, value in feed.items()):
            return 0
        sizes = {len(value) for value in feed.values()}
        return sizes.pop() if len(sizes) == 1 else 0

    def _model(self, batch: int) -> Any:
        """The model of a batch size; that of 0 takes every size."""
        with self._lock:
            if batch not in self._models and batch and len(self._models) >= self._most_fixed:
                batch = 0
            if batch not in self._models:
                source = self._core.read_model(self._file)
                if batch:
                    source.reshape(
                        {n: [batch, *rest] for n, rest in self._rest.items() if rest is not None}
                    )
                self._models[batch] = self._core.compile_model(source, "CPU", self._settings)
            return self._models[batch]


def _without_batch(tensor: Any) -> tuple[int, ...] | None:
    """The dimensions of an input but for the first, if that one is free and no other is."""
    first, *rest = tensor.partial_shape
    if not first.is_dynamic or any(each.is_dynamic for each in rest):
        return None
    return tuple(each.get_length() for each in rest)
