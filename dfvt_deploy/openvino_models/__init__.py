"""An ONNX file compiled by OpenVINO, for several batch sizes where only the batch is free.

The folder is copied to embedded servers, so it imports nothing else of the package. Enter through
`CompiledModels`.
"""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino

#: Batch sizes that are compiled; each model holds the weights once more.
SIZES = (8, 4, 2, 1)


class CompiledModels:
    """A file compiled for the CPU; several threads may call `infer` at once.

    precision: the precision that OpenVINO chose for it, which a CPU may force.
    inputs: the inputs of the file.

    A model of one batch size is up to a third faster than one that takes them all. So a batch is
    cut into `sizes`, the largest first, of which the last is 1. A file with other free dimensions
    has one model.
    """

    def __init__(
        self, file: Path, settings: Mapping[str, Any], sizes: Sequence[int] = SIZES
    ) -> None:
        self._sizes = sizes
        self._core, self._file = openvino.Core(), file
        # Pinned threads of several processes would all be on the first cores.
        self._settings = {"ENABLE_CPU_PINNING": False, **settings}
        self._models: dict[int, Any] = {}
        self._lock, self._local = threading.Lock(), threading.local()
        source = self._core.read_model(file)
        self.inputs = source.inputs
        self._rest = {each.get_any_name(): _without_batch(each) for each in source.inputs}
        first = self._model(0 if None in self._rest.values() else 1)
        self.precision: str = first.get_property("INFERENCE_PRECISION_HINT").to_string()

    def compile_all(self) -> None:
        """Compile every size, so that no request has to wait for that."""
        if None not in self._rest.values():
            for size in self._sizes:
                self._model(size)

    def infer(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """All outputs by name. Raises OpenVINO's own exceptions."""
        parts, start = [], 0
        while start < (batch := self._batch(feed)):
            size = next(size for size in self._sizes if size <= batch - start)
            part = {name: value[start : start + size] for name, value in feed.items()}
            parts.append(self._run(size, part))
            start += size
        if len(parts) < 2:
            return parts[0] if parts else self._run(0, feed)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, size: int, feed: Mapping[str, Any]) -> dict[str, Any]:
        requests = self._local.__dict__.setdefault("requests", {})
        if size not in requests:
            requests[size] = self._model(size).create_infer_request()
        outputs = requests[size].infer(dict(feed), share_inputs=True)
        return {output.get_any_name(): value for output, value in outputs.items()}

    def _batch(self, feed: Mapping[str, Any]) -> int:
        """The batch size of inputs that have the model's other dimensions; 0 for any other."""
        if any(value.shape[1:] != self._rest.get(name) for name, value in feed.items()):
            return 0
        sizes = {len(value) for value in feed.values()}
        return sizes.pop() if len(sizes) == 1 else 0

    def _model(self, size: int) -> Any:
        """The model of a batch size; that of 0 takes every size."""
        with self._lock:
            if size not in self._models:
                source = self._core.read_model(self._file)
                if size:
                    rests = {name: rest or () for name, rest in self._rest.items()}
                    source.reshape({name: [size, *rest] for name, rest in rests.items()})
                self._models[size] = self._core.compile_model(source, "CPU", self._settings)
            return self._models[size]


def _without_batch(tensor: Any) -> tuple[int, ...] | None:
    """The dimensions of an input but for the first, if that one is free and no other is."""
    first, *rest = tensor.partial_shape
    if not first.is_dynamic or any(each.is_dynamic for each in rest):
        return None
    return tuple(each.get_length() for each in rest)
