"""Training that says how far it is and goes on where it was interrupted."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dfvt_deploy.files import staged
from dfvt_deploy.start.training import Schedule, Training
from dfvt_deploy.tasks.images import MEAN, STD

#: Threads of PyTorch while it trains: sums, and so the weights, depend on their number.
THREADS = 2

#: Steps from one saved state to the next.
SAVED = 100


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """The same weights at every run on one machine."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


@dataclass
class Stopwatch:
    """Seconds since it was made: of the clock, and of all this process's threads."""

    _wall: float = field(default_factory=time.perf_counter)
    _cpu: float = field(default_factory=time.process_time)

    def __str__(self) -> str:
        return f"{self.wall:.0f} s, {self.cpu:.0f} s of CPU"

    @property
    def wall(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu


def normalised(images: Tensor) -> Tensor:
    """uint8 RGB (N, H, W, 3) to the float32 (N, 3, H, W) that the models take."""
    return ((images - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()


def train(
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    examples: int,
    schedule: Schedule,
    resume: Path | None = None,
) -> None:
    """Train as `Training` does and print the loss; the model is in eval mode again at the end.

    loss_of: the loss on the examples at these positions, int64 (batch,).
    resume: a file that the state is written to every `SAVED` steps, random numbers included.
        Training goes on from it if it exists, and gives what uninterrupted training gives.
    """
    training = Training(model, examples, schedule)
    if resume is not None and resume.is_file():
        _restore(resume, training)
        print(f"going on after step {training.done}, from {resume}", flush=True)
    clock = Stopwatch()
    for loss in training.steps(loss_of):
        if training.done % 10 == 0:
            print(f"step {training.done} of {schedule.steps}: loss {loss:.3f}, {clock}", flush=True)
        if resume is not None and training.done % SAVED == 0:
            _save(resume, training)


def _save(path: Path, training: Training) -> None:
    state = {
        "steps": training.done,
        "order": training.order,
        "random": torch.get_rng_state(),
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "cycle": training.cycle.state_dict(),
    }
    with staged(path) as temporary:
        torch.save(state, temporary)


def _restore(path: Path, training: Training) -> None:
    state = torch.load(path, weights_only=True)
    training.model.load_state_dict(state["model"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.cycle.load_state_dict(state["cycle"])
    torch.set_rng_state(state["random"])
    training.done, training.order = state["steps"], state["order"]


def save_checkpoint(model: nn.Module, path: Path, key: str) -> None:
    """`key`: `model` is the published layout, `state_dict` that of mmdetection and
    mmsegmentation."""
    with staged(path) as temporary:
        torch.save({"meta": {}, key: model.state_dict()}, temporary)
