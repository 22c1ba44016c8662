"""How small models are trained: that of `quickstart --example` and those of examples/."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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


class Training:
    """AdamW with one cycle of the learning rate on a number of examples. `done` counts the steps,
    `order` int64 has the positions of the examples as they follow each other."""

    def __init__(self, model: nn.Module, examples: int, schedule: Schedule) -> None:
        self.model, self.schedule, self.done = model, schedule, 0
        rate, steps, start = schedule.learning_rate, schedule.steps, schedule.warm_up
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
        cycle = torch.optim.lr_scheduler.OneCycleLR
        self.cycle = cycle(self.optimizer, rate, total_steps=steps, pct_start=start)
        epochs = -(-steps * schedule.batch // examples)
        self.order = torch.cat([torch.randperm(examples) for _ in range(epochs)])

    def steps(self, loss_of: Callable[[Tensor], Tensor]) -> Iterator[float]:
        """Take the steps that are left and yield the loss of each; the model is in eval mode again
        at the end. `loss_of` is the loss on the examples at these positions, int64 (batch,)."""
        batch = self.schedule.batch
        self.model.train()
        while self.done < self.schedule.steps:
            loss = loss_of(self.order[self.done * batch : (self.done + 1) * batch])
            self.optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.clip)
            self.optimizer.step()
            self.cycle.step()
            self.done += 1
            yield loss.item()
        self.model.eval()
