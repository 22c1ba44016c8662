"""What the examples train with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dfvt_deploy.files import staged
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


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model learns.

    learning_rate: the highest, of a cycle that rises to it over the first `warm_up` of the steps.
    clip: the largest norm of all gradients together; longer ones are shortened to it.
    """

    steps: int
    batch: int
    learning_rate: float
    warm_up: float = 0.3
    clip: float = math.inf


def train(
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    examples: int,
    schedule: Schedule,
    resume: Path | None = None,
) -> None:
    """AdamW with one cycle of the learning rate; the model is in eval mode again at the end.

    loss_of: the loss on the examples at these positions, int64 (batch,).
    resume: a file that the state is written to every `SAVED` steps, random numbers included.
        Training goes on from it if it exists, and gives what uninterrupted training gives.
    """
    steps, batch = schedule.steps, schedule.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=0.05)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, total_steps=steps, pct_start=schedule.warm_up
    )
    epochs = -(-steps * batch // examples)
    order = torch.cat([torch.randperm(examples) for _ in range(epochs)])
    first = 0
    if resume is not None and resume.is_file():
        first, order = _restore(resume, model, optimizer, cycle)
        print(f"going on after step {first}, from {resume}", flush=True)
    clock = Stopwatch()
    model.train()
    for step in range(first, steps):
        loss = loss_of(order[step * batch : (step + 1) * batch])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        cycle.step()
        if (step + 1) % 10 == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}, {clock}", flush=True)
        if resume is not None and (step + 1) % SAVED == 0:
            _save(resume, step + 1, order, model, optimizer, cycle)
    model.eval()


def _save(
    path: Path,
    steps: int,
    order: Tensor,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cycle: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    state = {
        "steps": steps,
        "order": order,
        "random": torch.get_rng_state(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "cycle": cycle.state_dict(),
    }
    with staged(path) as temporary:
        torch.save(state, temporary)


def _restore(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    cycle: torch.optim.lr_scheduler.LRScheduler,
) -> tuple[int, Tensor]:
    """The number of steps done, and the order of the examples."""
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    cycle.load_state_dict(state["cycle"])
    torch.set_rng_state(state["random"])
    return state["steps"], state["order"]


def save_checkpoint(model: nn.Module, path: Path, key: str) -> None:
    """`key`: `model` is the published layout, `state_dict` that of mmdetection and
    mmsegmentation."""
    with staged(path) as temporary:
        torch.save({"meta": {}, key: model.state_dict()}, temporary)
