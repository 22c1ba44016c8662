"""What both examples train with."""

from __future__ import annotations

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
    *,
    steps: int,
    batch: int,
    learning_rate: float,
) -> None:
    """AdamW with one cycle of the learning rate; the model is in eval mode again at the end.

    loss_of: the loss on the examples at these positions, int64 (batch,).
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    epochs = -(-steps * batch // examples)
    order = torch.cat([torch.randperm(examples) for _ in range(epochs)])
    clock = Stopwatch()
    model.train()
    for step in range(steps):
        loss = loss_of(order[step * batch : (step + 1) * batch])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if (step + 1) % 10 == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}, {clock}", flush=True)
    model.eval()


def save_checkpoint(model: nn.Module, path: Path, key: str) -> None:
    """`key`: `model` is the published layout, `state_dict` mmsegmentation's."""
    with staged(path) as temporary:
        torch.save({key: model.state_dict()}, temporary)
